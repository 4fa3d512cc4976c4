//! A trace as text, for people.

use starling_world::trace::{Event, Trace};

use crate::plan::Plan;

use super::logs::Logged;

/// One line an event (simulated seconds, machine and process, kind, numbers), with what nodes logged
/// in between.
pub(super) fn lines(plan: &Plan, trace: &Trace, logged: Vec<Logged>) -> Vec<String> {
    let mut lines: Vec<(u64, String)> =
        trace.events().map(|event| (event.at_ns, line(plan, event))).collect();
    for entry in logged {
        let told = [entry.process.machine.number(), entry.process.epoch];
        let words = format!("{:<12} log  {}", machine(plan, told), entry.text.trim_end());
        lines.push((entry.at_ns, format!("{:>13.6}  {words}", entry.at_ns as f64 / 1e9)));
    }
    // Stable: of one moment, events come before log lines, each in their own order.
    lines.sort_by_key(|(at_ns, _)| *at_ns);
    lines.into_iter().map(|(_, line)| line).collect()
}

fn line(plan: &Plan, event: &Event) -> String {
    let told = match event.kind {
        "fault_begins" | "fault_ends" => fault(plan, event.a),
        "client_get" | "client_put" | "client_delete" => format!("#{} at n{}", event.a, event.b),
        "client_got" | "client_acked" => format!("#{}", event.a),
        "client_refused" | "client_unsure" => format!("#{} status {}", event.a, event.b),
        _ => numbers(event),
    };
    format!(
        "{:>13.6}  {:<12} {:<22} {told}",
        event.at_ns as f64 / 1e9,
        machine(plan, [event.process.machine.number(), event.process.epoch]),
        event.kind,
    )
    .trim_end()
    .to_owned()
}

fn fault(plan: &Plan, id: u64) -> String {
    let fault = plan.faults.iter().find(|fault| u64::from(fault.id) == id);
    fault.map_or_else(
        || format!("{id}"),
        |fault| {
            let what = serde_json::to_string(&fault.what).unwrap_or_default();
            format!("{id} {what}")
        },
    )
}

/// Machines are numbered in the order in which the run adds them: nodes, clients, the observer.
fn machine(plan: &Plan, [number, epoch]: [u32; 2]) -> String {
    let number = number as usize;
    let (nodes, clients) = (plan.nodes.len(), plan.clients.len());
    let name = match number {
        0 => return "harness".to_owned(),
        n if n <= nodes => format!("n{n}"),
        n if n <= nodes + clients => format!("c{}", n - nodes),
        _ => "observer".to_owned(),
    };
    if epoch > 1 { format!("{name}#{epoch}") } else { name }
}

fn numbers(event: &Event) -> String {
    match (event.a, event.b) {
        (0, 0) => String::new(),
        // Tokens and hashes are large; counts are not.
        (a, b) if a > u64::from(u32::MAX) => format!("{a:016x} {b}"),
        (a, b) => format!("{a} {b}"),
    }
}
