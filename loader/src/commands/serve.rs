//! The program `hiend-serve`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{CommandFactory as _, Parser};
use clap_complete::Shell;

use super::caches;
use super::table::count;
use crate::case::shown;
use crate::pem;
use crate::program::health::Health;
use crate::program::metrics_server::MetricsServer;
use crate::program::{self, StorageArgs, UsageError, note, on_interrupt, parse_some_bytes};
use crate::service::{self, Listen, Monitor, Service, ServiceConfig, Tls};
use crate::stats;

/// Serve batches of augmented crops to training processes
///
/// Clients (`hiend-train --loader URL`, the Python package `hiend`, `hiend-shard stream --loader URL`) choose seed, batch, crop
/// size, sampling and augmentation, and receive exactly the batches that an in-process loader would make. Several
/// servers with the same shards can serve one client
#[derive(Debug, Parser)]
#[command(name = "hiend-serve", version, after_help = AFTER_HELP)]
struct Cli {
    /// Folder or URL of a cache; several are mixed
    #[arg(long, required = true, num_args = 1.., value_name = "CACHE")]
    shards: Vec<PathBuf>,
    /// Weight of each cache, whole numbers from 1 [default: equal]
    #[arg(long, value_name = "W,W", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    weights: Vec<u32>,
    /// Address to listen on, `IP:PORT` or `unix:/PATH`; may be repeated
    #[arg(long, required = true, value_name = "ADDR")]
    listen: Vec<Listen>,
    /// Threads that decode and augment [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Memory for the batches of all clients, and for mapped blocks of the disk cache (up to 256 MiB); the memory of one
    /// client is kept free, so that the default admits 11 clients, 10 for caches in object storage
    #[arg(long, value_name = "SIZE", default_value = "24GiB", value_parser = parse_some_bytes)]
    memory: ByteSize,
    /// Memory for the batches of one client, which bounds the size of a batch
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = parse_some_bytes)]
    client_memory: ByteSize,
    /// Number of streams that may be open
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_streams: u32,
    /// Time after which an unused stream is closed, in seconds; a client opens it again when it continues
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
    /// Time for batches in progress to be sent after SIGTERM or Ctrl-C, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// Certificate chain (PEM) for TLS on TCP addresses
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File with the token that clients must present
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Listen beyond this host without TLS and token, on a trusted network
    #[arg(long)]
    insecure: bool,
    /// Send voxels through the Unix socket instead of shared memory
    #[arg(long)]
    no_shared_memory: bool,
    /// Address for /metrics (Prometheus) and /healthz, such as 127.0.0.1:9100
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// Print completions for a shell, such as `source <(hiend-serve --completions bash)`
    #[arg(long, value_name = "SHELL", value_enum, exclusive = true)]
    completions: Option<Shell>,
    /// Write the manual page to a folder
    #[arg(long, value_name = "DIR", exclusive = true, hide = true)]
    man: Option<PathBuf>,
    /// Seconds that the making of a batch may take before /healthz answers 503
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        requires = "metrics_listen",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    stalled_after: u64,
    #[command(flatten)]
    storage: StorageArgs,
}

const AFTER_HELP: &str = "\
Clients beyond this host need --tls-cert, --tls-key and --token-file
Exit codes: 0 stopped with all batches sent, 1 failed or the drain time passed, 2 wrong usage
Environment: HIEND_LOG sets the log level, such as debug";

/// Runs the program `hiend-serve` with the command line of the process; returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    program::main(std::io::stderr, run)
}

/// Definition of the command line of `hiend-serve`.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if let Some(shell) = cli.completions {
        return program::print_completions(&command(), shell).map(|()| ExitCode::SUCCESS);
    }
    if let Some(dir) = &cli.man {
        return program::write_man_pages(command(), dir).map(|()| ExitCode::SUCCESS);
    }
    let health = Health::new();
    // Started before the first counter is made: the recorder sees only later ones.
    let _metrics = match cli.metrics_listen {
        Some(addr) => {
            let server = MetricsServer::start(addr, health.clone())?;
            stats::describe(stats::METRICS);
            stats::describe(service::METRICS);
            note(format_args!("metrics: http://{}/metrics", server.addr()));
            Some(server)
        }
        None => None,
    };
    let (sender, receiver) = flume::bounded(1);
    let first = move || {
        note("stopping: no new requests, batches in progress are being sent; a second signal ends at once");
        // The receiver is there until the program ends. It is notified before requests end, which would else be errors.
        let _ = sender.send(());
        // Ends requests to object storage that does not answer, for which the start or a batch would wait.
        hiend_cache::abandon_requests();
    };
    on_interrupt(first, || ())?;
    let config = match config(cli) {
        Err(error) if !receiver.is_empty() && hiend_cache::is_abandoned(&*error) => {
            note("stopped before a cache was opened");
            return Ok(ExitCode::SUCCESS);
        }
        config => config?,
    };
    let service = Service::start(config)?;
    watch(&health, service.monitor(), Duration::from_secs(cli.stalled_after));
    let clients = count(service.max_clients(), "client");
    note(format_args!("room for {clients} at a time; more need a larger --memory or a smaller --client-memory"));
    for url in service.urls() {
        note(format_args!("serving {}", program::escape_name(url)));
    }
    // An error is impossible while the handler has the sender.
    let _ = receiver.recv();
    health.fail("shutting down");
    if service.shutdown() {
        return Ok(ExitCode::SUCCESS);
    }
    note(format_args!("warning: connections were open after {} s and were cut", cli.drain));
    Ok(ExitCode::FAILURE)
}

/// Reason why the service is unhealthy.
#[derive(Debug, thiserror::Error)]
enum ServiceFault {
    /// No thread of the service is left.
    #[error("the service has ended")]
    Ended,
    /// A batch takes longer than expected.
    #[error("a batch has been in progress for {} s (limit {} s)", age.as_secs(), limit.as_secs())]
    Late {
        /// Time since the batch was requested.
        age: Duration,
        /// Longest time expected.
        limit: Duration,
    },
}

/// Shows the state of the service on the health page, and fails it if a batch is in progress for longer than `limit`.
fn watch(health: &Health, monitor: Monitor, limit: Duration) {
    health.watch(move || match monitor.status() {
        None => Err(ServiceFault::Ended),
        Some(status) if status.oldest > limit => Err(ServiceFault::Late { age: status.oldest, limit }),
        Some(status) => Ok(status.to_string()),
    });
}

/// Reads certificate and key; an error names the file that is wrong.
fn read_tls(cert: &Path, key: &Path) -> anyhow::Result<Tls> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("{}: cannot read the file", shown(path)));
    let (cert_pem, key_pem) = (read(cert)?, read(key)?);
    let certificates = pem::certificates(&cert_pem).with_context(|| shown(cert))?;
    pem::check_key(&key_pem, certificates).with_context(|| shown(key))?;
    Ok(Tls { cert_pem, key_pem })
}

/// Refuses a flag about addresses of a kind that `--listen` does not name.
fn refuse_flags_without_effect(cli: &Cli) -> Result<(), UsageError> {
    let is_unix = |listen: &Listen| matches!(listen, Listen::Unix(_));
    let message = if cli.tls_cert.is_some() && cli.listen.iter().all(is_unix) {
        "--tls-cert has no effect: no address of --listen is IP:PORT"
    } else if cli.no_shared_memory && !cli.listen.iter().any(is_unix) {
        "--no-shared-memory has no effect: no address of --listen begins with unix:"
    } else {
        return Ok(());
    };
    Err(UsageError::new(message))
}

fn config(cli: &Cli) -> anyhow::Result<ServiceConfig> {
    refuse_flags_without_effect(cli)?;
    let tls = match (&cli.tls_cert, &cli.tls_key) {
        (Some(cert), Some(key)) => Some(read_tls(cert, key)?),
        _ => None,
    };
    let token = match &cli.token_file {
        Some(path) => Some(program::read_token(path)?),
        None => None,
    };
    let config = ServiceConfig {
        caches: caches::open(&cli.shards, &cli.weights, &cli.storage)?,
        listen: cli.listen.clone(),
        threads: cli.threads.map_or(0, usize::from),
        memory_bytes: cli.memory.as_u64(),
        client_memory_bytes: cli.client_memory.as_u64(),
        max_streams: cli.max_streams as usize,
        idle: Duration::from_secs(cli.idle),
        drain: Duration::from_secs(cli.drain),
        token,
        tls,
        insecure: cli.insecure,
        shared_memory: !cli.no_shared_memory,
    };
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_its_help_has_one_style() {
        Cli::command().debug_assert();
        for arg in Cli::command().get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty() && !help.ends_with('.') && help.starts_with(char::is_uppercase), "{help:?}");
        }
    }

    #[test]
    fn errors_of_certificate_and_key_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let cert = write("cert.pem", &certified.cert.pem());
        let key = write("key.pem", &certified.signing_key.serialize_pem());
        read_tls(&cert, &key).unwrap();
        let check = |cert: &Path, key: &Path, named: &Path, reason: &str| {
            let error = format!("{:#}", read_tls(cert, key).unwrap_err());
            assert!(error.starts_with(&format!("{}: {reason}", named.display())), "{error}");
        };
        check(&key, &cert, &key, "no certificate found, but PRIVATE KEY");
        check(&cert, &cert, &cert, "no private key found, but CERTIFICATE");
        check(&write("empty.pem", ""), &key, &dir.path().join("empty.pem"), "no certificate found;");
        let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let other = write("other.pem", &other.signing_key.serialize_pem());
        check(&cert, &other, &other, "not the private key of the certificate");
        check(&cert, &dir.path().join("none"), &dir.path().join("none"), "cannot read the file");
    }

    #[test]
    fn flags_about_other_addresses_are_refused() {
        let refused = |flags: &str| {
            let words = format!("hiend-serve --shards a {flags}");
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            refuse_flags_without_effect(&cli).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let both = "--listen unix:/s --listen 127.0.0.1:1 --tls-cert c --tls-key k --no-shared-memory";
        assert_eq!(refused(both), "");
        assert!(refused("--listen unix:/s --tls-cert c --tls-key k").starts_with("--tls-cert has no effect"));
        assert!(refused("--listen 127.0.0.1:1 --no-shared-memory").starts_with("--no-shared-memory has no effect"));
    }

    #[test]
    fn the_default_memory_admits_the_ranks_of_eight_gpus() {
        let cli = Cli::try_parse_from(["hiend-serve", "--shards", "a", "--listen", "127.0.0.1:1"]).unwrap();
        let ServiceConfig { memory_bytes, client_memory_bytes, .. } = ServiceConfig::default();
        assert_eq!((cli.memory.as_u64(), cli.client_memory.as_u64()), (memory_bytes, client_memory_bytes));
        // Blocks of the disk cache take a part, and one client's memory is kept free.
        let blocks_bytes = 256 << 20;
        assert!((memory_bytes - blocks_bytes) / client_memory_bytes > 8);
    }

    #[test]
    fn addresses_repeat_and_keys_come_with_certificates() {
        let parse = |words: &str| Cli::try_parse_from(format!("hiend-serve {words}").split(' '));
        let cli = parse("--shards a b --listen 127.0.0.1:7070 --listen unix:/run/s").unwrap();
        assert_eq!((cli.shards.len(), cli.listen.len()), (2, 2));
        assert!(parse("--shards a --listen 127.0.0.1").is_err());
        assert!(parse("--shards a --listen 127.0.0.1:1 --tls-cert c").is_err());
        assert!(parse("--listen 127.0.0.1:1").is_err());
        let stalled = "--shards a --listen 127.0.0.1:1 --stalled-after 5";
        assert!(parse(stalled).unwrap_err().to_string().contains("--metrics-listen"));
        assert!(parse(&format!("{stalled} --metrics-listen 127.0.0.1:2")).is_ok());
        for flags in [
            "--weights 0",
            "--memory 0",
            "--client-memory 0",
            "--max-streams 0",
            "--idle 0",
            "--stalled-after 0",
            "--threads 0",
            "--threads 65535",
        ] {
            let error = parse(&format!("--shards a --listen 127.0.0.1:1 {flags}")).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ValueValidation, "{flags}");
        }
    }
}
