//! Tests of ranks started by another program, such as torchrun.

use std::io::{BufRead as _, BufReader};

use super::{DISAGREEMENT, Folder, LOST, as_torchrun, free_address, succeed};

#[test]
fn ranks_of_torchrun_train_together() {
    let folder = Folder::new(2);
    succeed(folder.pretrain("one", &["--device", "cpu", "--max-steps", "3"]));
    let master = free_address();
    let rank = |rank| {
        let command = folder.pretrain("run", &["--device", "cpu", "--max-steps", "3"]);
        as_torchrun(command, rank, master, "a token for tests only")
    };
    for rank in [rank(1), rank(0)] {
        let (code, stderr) = rank.end();
        assert_eq!(code, Some(0), "{stderr}");
    }
    assert_eq!(folder.losses("run"), folder.losses("one"));
}

#[test]
fn rank_with_another_configuration_is_named_by_all() {
    let folder = Folder::new(2);
    let check = |settings: [&str; 2], expected: &str| {
        let master = free_address();
        let rank = |rank: usize| {
            let command = folder.pretrain("run", &["--device", "cpu", "--set", settings[rank]]);
            as_torchrun(command, rank, master, "a token for tests only")
        };
        for rank in [rank(0), rank(1)] {
            let (code, stderr) = rank.end();
            assert_eq!(code, Some(DISAGREEMENT), "{stderr}");
            let last = stderr.lines().last().unwrap_or_default();
            assert!(last.starts_with("error: rank 1 ("), "{stderr}");
            assert!(last.contains(expected), "{stderr}");
        }
    };
    check(["optim.lr=0.25", "optim.lr=0.5"], "config differs in optim.lr: 0.5, rank 0 has 0.25");
    // A rank has two crops of the batch, so that memory never suggests three.
    check(["train.micro_batch=auto", "train.micro_batch=3"], "config differs in train.micro_batch: 3, rank 0 has ");
}

#[test]
fn rank_with_another_token_is_refused() {
    let mut folder = Folder::new(2);
    let master = free_address();
    let rank = |folder: &Folder, rank: usize, secs: &str, token: &str| {
        as_torchrun(folder.pretrain("run", &["--device", "cpu", "--join-timeout", secs]), rank, master, token)
    };
    // The first one waits for longer, because the second one has to start meanwhile.
    let mut first = rank(&folder, 0, "12", "a token for tests only");
    let mut first_lines = BufReader::new(first.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    first_lines.find(|line| line.starts_with("rank 0 waits for 1 other rank at ")).unwrap();
    let second = rank(&folder, 1, "6", "another token for tests");
    folder.end_turn();
    let (second, second_error) = second.end();
    let first_error = first_lines.collect::<Vec<_>>().join("\n");
    assert_eq!((first.end().0, second), (Some(LOST), Some(DISAGREEMENT)), "{first_error}{second_error}");
    assert!(second_error.contains("refused rank 1: its HIEND_TOKEN differs from rank 0's"), "{second_error}");
    assert!(first_error.contains("1 of 2 ranks joined within 12 s; missing: 1; refused "), "{first_error}");
}

#[test]
fn ranks_without_a_token_or_with_half_an_environment_do_not_start() {
    let folder = Folder::new(2);
    let check = |variables: &[(&str, &str)], flags: &[&str], expected: &str| {
        let mut command = folder.pretrain("run", flags);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.lines().last().unwrap_or_default().starts_with(expected), "{stderr}");
        assert!(!folder.at("run").exists());
    };
    let world =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")];
    check(&world, &["--device", "cpu"], "error: HIEND_TOKEN is not set");
    check(&world[1..], &["--device", "cpu"], "error: WORLD_SIZE is set but RANK is not");
    check(&[], &["--ranks", "slurm"], "error: --ranks slurm: SLURM_PROCID is not set");
    check(&[], &["--devices", "cpu", "--restarts", "2"], "error: --restarts is for ranks that --devices starts");
}
