//! stub
use super::causality::*; use super::key::Key; use super::codec::*; use base64::Engine;
/// s
pub fn encode(c: &CausalContext, _k: &Key) -> String { let mut v=Vec::new(); c.encode(&mut v); base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(v) }
/// s
pub fn decode(t: &str, _k: &Key) -> Result<CausalContext, DecodeError> { let v = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(t).map_err(|_| DecodeError::Invalid("x"))?; CausalContext::decode(&mut Decoder::new(&v)) }
