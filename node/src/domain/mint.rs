//! stub
use super::causality::*; use super::object::Object;
/// s
#[derive(Debug)] pub struct EpochsExhausted;
/// s
#[derive(Debug)] pub struct Minter { node: NodeId, first: u64, next: u64, through: u64 }
impl Minter {
    /// s
    pub fn new(node: NodeId, first: u64, through: u64) -> Self { Self{node, first, next:first, through} }
    /// s
    pub fn mint(&mut self, state: Option<&Object>, _seen: &CausalContext) -> Result<Dot, EpochsExhausted> {
        if let Some(a) = state.and_then(|s| s.context().latest_actor_of(self.node)) && a.epoch >= self.first { let c = state.map_or(0, |s| s.context().highest(a)); return Ok(Dot{actor:a, counter:c+1}); }
        if self.next > self.through { return Err(EpochsExhausted) }
        self.next += 1; Ok(Dot{actor: Actor{node:self.node, epoch:self.next-1}, counter:1})
    }
    /// s
    pub fn retire(&mut self) { self.first = self.next; }
    /// s
    pub fn extend(&mut self, t: u64) { self.through = t; }
    /// s
    pub fn left(&self) -> u64 { self.through - self.next + 1 }
}
