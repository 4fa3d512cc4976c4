//! A trace as text, for people.

use starling_world::trace::{Event, Trace};

use crate::plan::Plan;

/// One line an event: simulated seconds, machine and process, kind, numbers.
pub(super) fn lines(plan: &Plan, trace: &Trace) -> Vec<String> {
    trace.events().map(|event| line(plan, event)).collect()
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
        machine(plan, event),
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
fn machine(plan: &Plan, event: &Event) -> String {
    let number = event.process.machine.number() as usize;
    let (nodes, clients) = (plan.nodes.len(), plan.clients.len());
    let name = match number {
        0 => return "harness".to_owned(),
        n if n <= nodes => format!("n{n}"),
        n if n <= nodes + clients => format!("c{}", n - nodes),
        _ => "observer".to_owned(),
    };
    if event.process.epoch > 1 { format!("{name}#{}", event.process.epoch) } else { name }
}

fn numbers(event: &Event) -> String {
    match (event.a, event.b) {
        (0, 0) => String::new(),
        // Tokens and hashes are large; counts are not.
        (a, b) if a > u64::from(u32::MAX) => format!("{a:016x} {b}"),
        (a, b) => format!("{a} {b}"),
    }
}
