//! The machine's promises, on a small network of machines made for the purpose.

mod detection;
mod hostile;
mod names;
mod net;
mod scale;
mod stories;
