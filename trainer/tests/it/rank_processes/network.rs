//! Tests of ranks in separate network namespaces, whose network is cut; `tests/cut-network` runs them.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Folder, LOST, Running};

/// Script that runs a command as two ranks, each in a network namespace, and cuts the network between them when standard
/// input ends.
const NAMESPACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/two-namespaces");

#[test]
#[ignore = "needs root, iproute2 and util-linux, and a system that allows network namespaces"]
fn cut_network_is_noticed_by_both_ranks_and_the_steps_done_are_saved() {
    let folder = Folder::new(2);
    let program = folder.pretrain("run", &["--device", "cpu", "--peer-timeout", "10"]);
    let mut command = Command::new("unshare");
    command.args(["--net", NAMESPACES]).arg(program.get_program()).args(program.get_args());
    command.env("HIEND_TOKEN", "a token for tests only");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(command);
    running.wait_for_step(2);
    let start = Instant::now();
    // The script waits for the end of its input.
    drop(running.child.stdin.take());
    let (code, stderr) = running.end();
    println!("both ranks ended {:.1} s after the cut:\n{stderr}", start.elapsed().as_secs_f64());
    assert_eq!(code, Some(LOST), "{stderr}");
    for rank in [0, 1] {
        let named = format!("error: rank {rank} (");
        let is_named = |line: &str| line.starts_with(&named) && line.contains("has sent nothing for 10 s");
        assert!(stderr.lines().any(is_named), "{stderr}");
    }
    assert!(stderr.contains("; last good checkpoint: "), "{stderr}");
}
