//! The machine's promises, on a small network of machines made for the purpose.

mod detection;
mod evidence;
mod hostile;
mod members;
mod names;
mod net;
mod scale;
mod stories;
