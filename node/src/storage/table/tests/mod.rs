//! Tests of tables on real files.
