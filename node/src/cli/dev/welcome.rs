//! What `starling dev` says: where the nodes are, and what to type next.

use std::path::Path;

use super::process::NodeProcess;

/// The words with which this program was called.
fn program() -> String {
    if std::env::var_os("CARGO").is_some() {
        return "cargo node".to_owned();
    }
    std::env::args().next().unwrap_or_else(|| "starling".to_owned())
}

/// The first screen of a running cluster.
pub(super) fn text(dir: &Path, nodes: &[NodeProcess]) -> String {
    let mut out =
        format!("Starling: {} on this machine, data in {}\n\n", count(nodes.len()), dir.display());
    for node in nodes {
        out.push_str(&format!(
            "  {:<4} {}   pid {:<8} log {}\n",
            node.name,
            node.url,
            node.pid,
            node.log.display()
        ));
    }
    let urls: Vec<String> = nodes.iter().map(|node| node.url.to_string()).collect();
    out.push_str(&examples(&urls, &program()));
    out.push_str("\nCtrl-C stops the cluster; its data survives.\n");
    out
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "one node".to_owned() } else { format!("a cluster of {nodes} nodes") }
}

/// Commands to type, each on any node, as they are.
fn examples(urls: &[String], program: &str) -> String {
    let url = |index: usize| urls[index % urls.len()].as_str();
    let (a, b, c) = (url(0), url(1), url(2));
    format!(
        "
Type this in another terminal.

Write a value, and read it from another node:

  curl -X PUT {a}/v1/kv/fruit/apple -d '{{\"colour\":\"red\"}}'
  curl -i {b}/v1/kv/fruit/apple

Two writers who have not seen each other: both values are kept, a reader gets both (300):

  curl -X PUT {a}/v1/kv/fruit/pear -d '\"green\"'
  curl -X PUT {b}/v1/kv/fruit/pear -d '\"yellow\"'
  curl -i {c}/v1/kv/fruit/pear

Settle it: write with the context of what you have read:

  CONTEXT=$(curl -s -o /dev/null -w '%header{{causal-context}}' {c}/v1/kv/fruit/pear)
  curl -X PUT {a}/v1/kv/fruit/pear -H \"Causal-Context: $CONTEXT\" -d '\"ripe\"'
  curl {b}/v1/kv/fruit/pear

Without curl, and to see how the cluster is:

  {program} get fruit pear --node {b}
  {program} status --node {a}
"
    )
}

/// What is said when a node has ended by itself.
pub(super) fn obituary(node: &NodeProcess, status: &str) -> String {
    let NodeProcess { name, pid, log, config, .. } = node;
    format!(
        "\n{name} (pid {pid}) has ended: {status}; the end of {}:\n{}\n\
         the others go on; to bring it back: {} serve --config {}",
        log.display(),
        node.log_tail(),
        program(),
        config.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_read_well_for_three_nodes_and_for_one() {
        let urls = ["http://h:1", "http://h:2", "http://h:3"].map(str::to_owned);
        insta::assert_snapshot!(examples(&urls, "starling").trim(), @r#"
        Type this in another terminal.

        Write a value, and read it from another node:

          curl -X PUT http://h:1/v1/kv/fruit/apple -d '{"colour":"red"}'
          curl -i http://h:2/v1/kv/fruit/apple

        Two writers who have not seen each other: both values are kept, a reader gets both (300):

          curl -X PUT http://h:1/v1/kv/fruit/pear -d '"green"'
          curl -X PUT http://h:2/v1/kv/fruit/pear -d '"yellow"'
          curl -i http://h:3/v1/kv/fruit/pear

        Settle it: write with the context of what you have read:

          CONTEXT=$(curl -s -o /dev/null -w '%header{causal-context}' http://h:3/v1/kv/fruit/pear)
          curl -X PUT http://h:1/v1/kv/fruit/pear -H "Causal-Context: $CONTEXT" -d '"ripe"'
          curl http://h:2/v1/kv/fruit/pear

        Without curl, and to see how the cluster is:

          starling get fruit pear --node http://h:2
          starling status --node http://h:1
        "#);
        let alone = examples(&urls[..1], "starling");
        assert!(alone.contains("curl http://h:1/v1/kv/fruit/pear"), "{alone}");
    }
}
