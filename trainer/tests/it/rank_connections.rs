//! Tests of connections between ranks that are refused, cut, silent or slow: each failure is reported with its rank.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hiend_trainer::distributed::{Cause, JoinError, Master, PeerFailure, ProcessGroup, TcpSum, Timeouts, Token, World};

use crate::ranks::worlds;

/// Timeout so long that, even on a busy machine, it never ends a wait that another event should end.
const LONG: Duration = Duration::from_mins(5);
const TIMEOUTS: Timeouts = Timeouts { join: LONG, peer: LONG, step: LONG };

fn token() -> Token {
    Token::new("a token for tests only".into()).unwrap()
}

type Joined = Result<Arc<ProcessGroup>, JoinError>;

fn join_in_thread(world: &World, token: Token, timeouts: Timeouts) -> JoinHandle<Joined> {
    let world = world.clone();
    std::thread::spawn(move || ProcessGroup::join(&world, &token, timeouts, None))
}

/// Waits for the address that rank 0 announces.
fn announced(file: &Path) -> String {
    loop {
        match std::fs::read_to_string(file) {
            Ok(address) => return address,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Proxy for a connection to rank 0, which can cut the connection or stop forwarding bytes.
struct Proxy {
    address: Master,
    /// Both ends of the connection, once a rank has connected.
    ends: flume::Receiver<[TcpStream; 2]>,
    /// Receives a message for each heartbeat that the rank sent.
    heartbeats: flume::Receiver<()>,
}

impl Proxy {
    fn start(rank_0: PathBuf) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), rank_0)
    }

    fn on(listener: TcpListener, rank_0: PathBuf) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (sender, ends) = flume::bounded(1);
        let (heartbeat, heartbeats) = flume::bounded(1000);
        std::thread::spawn(move || {
            let (near, _) = listener.accept().unwrap();
            let far = TcpStream::connect(announced(&rank_0)).unwrap();
            let pass = |mut from: TcpStream, mut to: TcpStream, heartbeat: Option<flume::Sender<()>>| {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        if to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                        // A frame without payload.
                        if count == 5
                            && let Some(heartbeat) = &heartbeat
                        {
                            let _ = heartbeat.try_send(());
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                })
            };
            pass(near.try_clone().unwrap(), far.try_clone().unwrap(), Some(heartbeat));
            pass(far.try_clone().unwrap(), near.try_clone().unwrap(), None);
            sender.send([near, far]).unwrap();
        });
        let address = Master::Address { host: "127.0.0.1".into(), port };
        Self { address, ends, heartbeats }
    }
}

/// Connects two ranks, the second one through a proxy.
fn pair(timeouts: [Timeouts; 2]) -> ([Arc<ProcessGroup>; 2], Proxy, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let worlds = worlds(dir.path(), 2);
    let proxy = Proxy::start(dir.path().join("address"));
    let second = World { master: proxy.address.clone(), ..worlds[1].clone() };
    let ranks = [join_in_thread(&worlds[0], token(), timeouts[0]), join_in_thread(&second, token(), timeouts[1])];
    (ranks.map(|rank| rank.join().unwrap().unwrap()), proxy, dir)
}

fn failure(result: Result<(), PeerFailure>) -> (usize, Cause) {
    let failure = result.unwrap_err();
    (failure.rank, failure.cause)
}

#[test]
fn values_are_gathered_from_all_ranks_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let threads: Vec<_> = worlds(dir.path(), 3)
        .into_iter()
        .map(|world| {
            std::thread::spawn(move || {
                let group = ProcessGroup::join(&world, &token(), TIMEOUTS, None).unwrap();
                for round in 0..50_usize {
                    let gathered = group.gather(&(round, world.rank)).unwrap();
                    assert_eq!(gathered.values, [(round, 0), (round, 1), (round, 2)]);
                    assert_eq!(gathered.behind.len(), if world.rank == 0 { 3 } else { 0 });
                }
                group.finish().unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn cut_connection_ends_both_ranks() {
    let ([first, second], proxy, _dir) = pair([TIMEOUTS; 2]);
    let waiting = std::thread::spawn(move || failure(first.barrier()));
    for end in proxy.ends.recv().unwrap() {
        let _ = end.shutdown(Shutdown::Both);
    }
    assert_eq!(waiting.join().unwrap(), (1, Cause::Closed));
    assert_eq!(failure(second.barrier()), (0, Cause::Closed));
    // A hook that is added late is called at once.
    let (sender, called) = flume::bounded(1);
    second.on_failure(move || sender.try_send(()).unwrap());
    assert!(called.try_recv().is_ok());
}

#[test]
fn run_is_over_once_rank_0_has_finished_whatever_became_of_another_rank() {
    for rank_0_finishes in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let worlds = worlds(dir.path(), 3);
        let ranks = worlds.iter().map(|world| join_in_thread(world, token(), TIMEOUTS)).collect::<Vec<_>>();
        let mut groups: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap().unwrap()).collect();
        let (third, second, first) = (groups.pop().unwrap(), groups.pop().unwrap(), groups.pop().unwrap());
        // Killed while rank 0 writes the last checkpoint, and rank 1 waits for it.
        drop(third);
        let waiting = std::thread::spawn(move || second.finish());
        if rank_0_finishes {
            assert_eq!(failure(first.finish()).0, 2);
        } else {
            assert_eq!(failure(first.barrier()).0, 2);
        }
        drop(first);
        assert_eq!(waiting.join().unwrap().is_ok(), rank_0_finishes);
    }
}

#[test]
fn rank_that_ends_without_a_word_is_gone_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let ranks = worlds(dir.path(), 3).iter().map(|world| join_in_thread(world, token(), TIMEOUTS)).collect::<Vec<_>>();
    let mut groups: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap().unwrap()).collect();
    drop(groups.remove(2));
    let expected = (2, Cause::Failed("its process ended before the run was over".into()));
    for group in groups {
        assert_eq!(failure(group.barrier()), expected);
    }
}

#[test]
fn silent_rank_is_distinguished_from_a_slow_one() {
    // Rank 1 sends four heartbeats in the time after which rank 0 gives up on a silent rank; three may be late.
    let short = Timeouts { peer: Duration::from_secs(8), ..TIMEOUTS };
    let ([first, second], proxy, _dir) = pair([short; 2]);
    let first_round = {
        let first = Arc::clone(&first);
        std::thread::spawn(move || first.barrier())
    };
    // Slow: rank 1 arrives after more than that time, and is waited for because its heartbeats arrive.
    for _ in 0..5 {
        proxy.heartbeats.recv().unwrap();
    }
    second.barrier().unwrap();
    first_round.join().unwrap().unwrap();
    drop(second);
    assert_eq!(failure(first.barrier()).0, 1);
}

#[test]
fn rank_behind_a_dead_network_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let worlds = worlds(dir.path(), 2);
    let short = Timeouts { peer: Duration::from_secs(1), ..TIMEOUTS };
    let first = join_in_thread(&worlds[0], token(), short);
    // A connection that passes the handshake and then nothing more: its bytes are lost, and it stays open.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let second = World { master: Master::Address { host: "127.0.0.1".into(), port }, ..worlds[1].clone() };
    let second = join_in_thread(&second, token(), TIMEOUTS);
    let (mut near, _) = listener.accept().unwrap();
    let mut far = TcpStream::connect(announced(&dir.path().join("address"))).unwrap();
    let pass = |from: &mut TcpStream, to: &mut TcpStream, count: usize| {
        let mut bytes = vec![0; count];
        from.read_exact(&mut bytes).unwrap();
        to.write_all(&bytes).unwrap();
        bytes
    };
    pass(&mut far, &mut near, 16 + 32);
    let claim = pass(&mut near, &mut far, 32 + 8 + 1);
    pass(&mut near, &mut far, usize::from(claim[40]) + 32);
    let answer = pass(&mut far, &mut near, 2);
    pass(&mut far, &mut near, usize::from(answer[1]) + 32);
    let (first, second) = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
    assert_eq!(failure(first.barrier()), (1, Cause::Silent(1)));
    // Rank 1 has not noticed yet; the end of the connection informs it.
    drop((near, far));
    assert_eq!(failure(second.barrier()), (0, Cause::Closed));
}

#[test]
fn rank_that_does_not_arrive_is_late_although_it_is_alive() {
    let short = Timeouts { step: Duration::from_millis(500), ..TIMEOUTS };
    let ([first, second], _proxy, _dir) = pair([short, TIMEOUTS]);
    assert_eq!(failure(first.barrier()), (1, Cause::Late(0)));
    // The late rank is informed by rank 0.
    assert_eq!(failure(second.barrier()), (1, Cause::Late(0)));
}

#[test]
fn wrong_token_is_refused_and_the_missing_rank_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let worlds = worlds(dir.path(), 2);
    let [short, shorter] = [8, 4].map(|secs| Timeouts { join: Duration::from_secs(secs), ..TIMEOUTS });
    let first = join_in_thread(&worlds[0], token(), short);
    announced(&dir.path().join("address"));
    let other = Token::new("another token altogether".into()).unwrap();
    let error = join_in_thread(&worlds[1], other, shorter).join().unwrap().unwrap_err();
    assert!(matches!(error, JoinError::Refused { rank: 1, .. }), "{error}");
    assert!(error.to_string().ends_with("refused rank 1: its HIEND_TOKEN differs from rank 0's"), "{error}");
    let error = first.join().unwrap().unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("1 of 2 ranks joined within 8 s; missing: 1; refused "), "{error}");
    assert!(error.ends_with(" without the token of this run, the last from 127.0.0.1"), "{error}");
}

/// Answers a rank as rank 0 would until its proof, and then sends `answer` with a proof made without the token.
fn pretend_to_be_rank_0(listener: &TcpListener, answer: &[u8]) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"hiend-ranks  v1\n").unwrap();
    stream.write_all(&[7; 32]).unwrap();
    stream.read_exact(&mut [0; 32 + 8]).unwrap();
    stream.write_all(&[answer, &[0; 32]].concat()).unwrap();
    // Until the rank has read everything and closes.
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Finishes ranks that have joined, all at the same time.
fn finish_all(ranks: [JoinHandle<Joined>; 2]) {
    let finishing = ranks.map(|rank| {
        let group = rank.join().unwrap().unwrap();
        std::thread::spawn(move || group.finish())
    });
    for rank in finishing {
        rank.join().unwrap().unwrap();
    }
}

#[test]
fn refusal_without_a_proof_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let worlds = worlds(dir.path(), 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let second = World { master: Master::Address { host: "127.0.0.1".into(), port }, ..worlds[1].clone() };
    let second = join_in_thread(&second, token(), TIMEOUTS);
    // First without a proof, then with a wrong one: the rank tries again after each.
    for status in [1, 2] {
        let reason = b"go \x1b[2J away";
        pretend_to_be_rank_0(&listener, &[&[status, reason.len() as u8], reason.as_slice()].concat());
    }
    let _proxy = Proxy::on(listener, dir.path().join("address"));
    finish_all([join_in_thread(&worlds[0], token(), TIMEOUTS), second]);
}

#[test]
fn strangers_do_not_disturb_the_rendezvous() {
    let dir = tempfile::tempdir().unwrap();
    let worlds = worlds(dir.path(), 2);
    let first = join_in_thread(&worlds[0], token(), TIMEOUTS);
    let address = announced(&dir.path().join("address"));
    // One client says nothing, one sends something else, one closes at once.
    let silent = TcpStream::connect(&address).unwrap();
    let mut talking = TcpStream::connect(&address).unwrap();
    talking.write_all(&[b'x'; 4096]).unwrap();
    drop(TcpStream::connect(&address).unwrap());
    let second = join_in_thread(&worlds[1], token(), TIMEOUTS);
    let groups = [first, second].map(|rank| rank.join().unwrap().unwrap());
    let threads = groups.map(|group| std::thread::spawn(move || group.finish()));
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    drop((silent, talking));
}

#[test]
fn ranks_that_do_not_belong_together_are_named() {
    let check = |change: fn(&mut World), expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut worlds = worlds(dir.path(), 2);
        change(&mut worlds[1]);
        let ranks = worlds.iter().map(|world| join_in_thread(world, token(), TIMEOUTS)).collect::<Vec<_>>();
        for rank in ranks {
            let error = rank.join().unwrap().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    };
    check(|world| world.num_ranks = 3, "is one of 3 ranks, rank 0 is one of 2");
    check(|world| world.rank = 5, "a second rank 5 of 2");
}

/// Text of a program other than rank 0.
const MAIL: &[u8] = b"220 mail.example.org ESMTP ready, go ahead please\r\n";

#[test]
fn another_program_at_the_address_is_not_taken_for_rank_0() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let second =
        World { master: Master::Address { host: "127.0.0.1".into(), port }, ..worlds(dir.path(), 2)[1].clone() };
    // Whatever time the first attempt takes, it is the last one.
    let joining = join_in_thread(&second, token(), Timeouts { join: Duration::ZERO, ..TIMEOUTS });
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(MAIL).unwrap();
    let error = joining.join().unwrap().unwrap_err();
    assert!(matches!(error, JoinError::Stranger { .. }), "{error}");
}

#[test]
fn another_program_at_the_address_does_not_end_a_rank() {
    let dir = tempfile::tempdir().unwrap();
    let worlds = worlds(dir.path(), 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let second = World { master: Master::Address { host: "127.0.0.1".into(), port }, ..worlds[1].clone() };
    let second = join_in_thread(&second, token(), TIMEOUTS);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(MAIL).unwrap();
    // The impostor answers like rank 0, but does not know the token.
    pretend_to_be_rank_0(&listener, b"\0\x04name");
    // Then rank 0 takes its address.
    let _proxy = Proxy::on(listener, dir.path().join("address"));
    finish_all([join_in_thread(&worlds[0], token(), TIMEOUTS), second]);
}

/// Runs `work` on each of `num_ranks` ranks, in threads of this process; returns the result on rank 0.
fn on_ranks<T: Send + 'static>(num_ranks: usize, work: fn(&Arc<ProcessGroup>) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let start = |world: World| {
        std::thread::spawn(move || {
            let group = ProcessGroup::join(&world, &token(), TIMEOUTS, None).unwrap();
            let result = work(&group);
            group.finish().unwrap();
            result
        })
    };
    let threads: Vec<_> = worlds(dir.path(), num_ranks).into_iter().map(start).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>().swap_remove(0)
}

#[test]
#[ignore = "measures instead of checking: run with --ignored --nocapture"]
fn exchanges_are_timed() {
    const ROUNDS: u32 = 200;
    for num_ranks in [2, 8, 32, 64] {
        let time = on_ranks(num_ranks, |group| {
            // The facts of a step are of this size.
            let facts = ("0123456789".repeat(8), group.rank());
            group.gather(&facts).unwrap();
            let start = std::time::Instant::now();
            for _ in 0..ROUNDS {
                group.gather(&facts).unwrap();
            }
            start.elapsed() / ROUNDS
        });
        println!("{num_ranks} ranks: {time:?} an exchange, {:?} a rank", time / num_ranks as u32);
    }
}

#[test]
#[ignore = "measures instead of checking: run with --ignored --nocapture"]
fn sums_are_timed() {
    const FLOATS: usize = 16 << 20;
    for num_ranks in [2, 4, 8] {
        let time = on_ranks(num_ranks, |group| {
            let (sum, values) = (TcpSum::new(Arc::clone(group)), vec![1.0; FLOATS]);
            sum.sum_floats(&values).unwrap();
            let start = std::time::Instant::now();
            let sums = sum.sum_floats(&values).unwrap();
            assert!(sums.iter().all(|value| value.to_bits() == (group.num_ranks() as f32).to_bits()));
            start.elapsed()
        });
        let bytes = 4.0 * FLOATS as f64;
        println!("{num_ranks} ranks: {time:?} for 64 MiB of gradients, {:.0} MB/s", bytes / time.as_secs_f64() / 1e6);
    }
}

#[test]
fn sums_over_many_buckets_are_equal_on_all_ranks() {
    // More than the buckets in flight, the last one not full.
    const FLOATS: usize = (9 << 20) + 5;
    on_ranks(3, |group| {
        let own: Vec<f32> = (0..FLOATS).map(|at| (at % 1000) as f32 * (1 + group.rank()) as f32).collect();
        let sums = TcpSum::new(Arc::clone(group)).sum_floats(&own).unwrap();
        assert_eq!(sums.len(), FLOATS);
        assert!(sums.iter().enumerate().all(|(at, sum)| sum.to_bits() == ((at % 1000) as f32 * 6.0).to_bits()));
    });
}
