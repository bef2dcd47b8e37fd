//! Place of a process among the ranks of a run, read from the environment set by the program that started it.
//!
//! | started by | variables |
//! |---|---|
//! | torchrun | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` |
//! | Slurm's srun | `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`, the first host of `SLURM_JOB_NODELIST` |
//! | `mpirun` | `OMPI_COMM_WORLD_RANK`, `OMPI_COMM_WORLD_SIZE`, `PMI_RANK`, `PMI_SIZE`; MPI itself once it is started |
//! | Kubernetes | `JOB_COMPLETION_INDEX` of an indexed job, `WORLD_SIZE`, `MASTER_ADDR` |
//! | `--devices` | `HIEND_RENDEZVOUS`: a file that names the port of rank 0 |
//!
//! `MASTER_ADDR` and `MASTER_PORT` are taken from the environment in all cases, if they are set.

use std::cell::Cell;
use std::fmt;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;

use super::nodelist::first_host;
use crate::variable::{self, NotText};

#[cfg(test)]
mod tests;

/// Environment variable with the path of the file in which rank 0 announces its address to ranks of the same launcher.
pub(super) const RENDEZVOUS: &str = "HIEND_RENDEZVOUS";
/// Port of rank 0 if the environment does not name one.
const DEFAULT_PORT: u16 = 29_500;

/// Program that started the ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Launcher {
    /// Determined from the environment
    #[default]
    Auto,
    /// The variables of torchrun: `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`
    Torchrun,
    /// The variables of srun: `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`; the first host is rank 0's
    Slurm,
    /// `JOB_COMPLETION_INDEX` of an indexed job, with `WORLD_SIZE` and `MASTER_ADDR`
    Kubernetes,
    /// MPI, as started by `mpirun`; needs a build with the feature `mpi`, and sums gradients between CPUs by MPI
    Mpi,
    /// Ignore the environment
    None,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Torchrun => "torchrun",
            Self::Slurm => "slurm",
            Self::Kubernetes => "kubernetes",
            Self::Mpi => "mpi",
            Self::None => "none",
        })
    }
}

/// Source of rank 0's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Master {
    /// Host and port.
    Address {
        /// Name or number of the host.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A file on this machine to which rank 0 writes its address.
    File(PathBuf),
    /// The address that MPI sends from rank 0 to all ranks, once it has done so ([`super::Mpi::world`]).
    Mpi(Option<MpiAddress>),
}

/// Address at which rank 0 already listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpiAddress {
    /// Name or number of the host.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Listening socket, on rank 0.
    pub listener: Option<Listener>,
}

/// A listening socket, equal only to its clones.
#[derive(Clone, Debug)]
pub struct Listener(pub(super) Arc<TcpListener>);

impl Listener {
    /// Wraps a listening socket.
    #[must_use]
    pub fn new(listener: TcpListener) -> Self {
        Self(Arc::new(listener))
    }
}

impl PartialEq for Listener {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Listener {}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { host, port } | Self::Mpi(Some(MpiAddress { host, port, .. })) if host.contains(':') => {
                write!(f, "[{host}]:{port}")
            }
            Self::Address { host, port } | Self::Mpi(Some(MpiAddress { host, port, .. })) => write!(f, "{host}:{port}"),
            Self::File(path) => write!(f, "the address in {}", path.display()),
            Self::Mpi(None) => f.write_str("the address that MPI passes on"),
        }
    }
}

/// Place of this process among the ranks of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes, at least 2.
    pub num_ranks: usize,
    /// Number of this process among the processes of its machine.
    pub local_rank: usize,
    /// Number of processes that share the cores and memory seen by this one.
    pub num_sharing: usize,
    /// True if each process may see only its own GPU, as number 0.
    pub may_see_one_gpu: bool,
    /// Source of rank 0's address.
    pub master: Master,
}

/// Error of an environment that does not determine a process's place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// A variable is missing that is required together with another.
    #[error("{present} is set but {missing} is not; set both, or run as one process with --ranks none")]
    Missing {
        /// A variable that is set.
        present: String,
        /// The variable that is missing.
        missing: String,
    },
    /// A variable with a value that is not text.
    #[error(transparent)]
    NotText(#[from] NotText),
    /// A variable with another value than expected.
    #[error("{name}={value}: expected {expected}")]
    Invalid {
        /// Name of the environment variable.
        name: String,
        /// Value of the variable.
        value: String,
        /// Description of a valid value.
        expected: String,
    },
    /// The named launcher did not start this process.
    #[error("--ranks {launcher}: {name} is not set")]
    NotStartedBy {
        /// Launcher named by `--ranks`.
        launcher: Launcher,
        /// Variable that the launcher would set.
        name: &'static str,
    },
    /// A batch script of several tasks that did not use srun.
    #[error(
        "this Slurm job has {tasks} tasks, but srun did not start this process; start it with srun, or run as one \
         process with --ranks none"
    )]
    NoStep {
        /// Number of tasks of the job.
        tasks: usize,
    },
}

/// Lookup of environment variables.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl World {
    /// Returns whether MPI started the ranks and distributes the address of rank 0.
    #[must_use]
    pub fn is_of_mpi(&self) -> bool {
        matches!(self.master, Master::Mpi(_))
    }

    /// Determines the place of this process from its environment; `None` if it trains alone.
    ///
    /// # Errors
    /// If the environment is incomplete or contradicts itself.
    pub fn of_environment(launcher: Launcher) -> Result<Option<Self>, WorldError> {
        Self::of_variables(launcher, variable::text)
    }

    /// Determines the place of a process by this lookup of environment variables, which refuses values that are not text.
    fn of_variables(
        launcher: Launcher,
        text: impl Fn(&str) -> Result<Option<String>, NotText>,
    ) -> Result<Option<Self>, WorldError> {
        let refused = Cell::new(None);
        let place = Self::find(launcher, &|name| match text(name) {
            Ok(value) => value,
            Err(error) => {
                refused.set(Some(error));
                None
            }
        });
        match refused.into_inner() {
            Some(error) => Err(error.into()),
            None => place,
        }
    }

    /// Determines the place of a process from these environment variables.
    ///
    /// # Errors
    /// See [`Self::of_environment`].
    pub fn find(launcher: Launcher, variables: Variables<'_>) -> Result<Option<Self>, WorldError> {
        let is_set = |name: &str| variables(name).is_some();
        let required = |name: &'static str| match variables(name) {
            Some(_) => Ok(()),
            None => Err(WorldError::NotStartedBy { launcher, name }),
        };
        let world = if let Some(path) = variables(RENDEZVOUS) {
            torchrun(variables, RENDEZVOUS, Some(Master::File(path.into())))
        } else {
            match launcher {
                Launcher::Torchrun => required("RANK").and_then(|()| torchrun(variables, "RANK", None)),
                Launcher::Slurm => required("SLURM_PROCID").and_then(|()| slurm(variables)),
                Launcher::Kubernetes => required("JOB_COMPLETION_INDEX").and_then(|()| kubernetes(variables)),
                Launcher::Mpi if is_set("PMI_RANK") => mpi(variables),
                Launcher::Mpi => required("OMPI_COMM_WORLD_RANK").and_then(|()| mpi(variables)),
                Launcher::Auto if is_set("RANK") => torchrun(variables, "RANK", None),
                // Before Slurm's, which a batch script passes on to the ranks that mpirun starts.
                Launcher::Auto if is_set("OMPI_COMM_WORLD_RANK") => mpi(variables),
                Launcher::Auto if is_set("SLURM_PROCID") && is_set("SLURM_NTASKS") => slurm(variables),
                Launcher::Auto if is_set("JOB_COMPLETION_INDEX") && is_set("WORLD_SIZE") => kubernetes(variables),
                // MPICH and Intel MPI set these; Slurm and Kubernetes may set them too.
                Launcher::Auto if is_set("PMI_RANK") && is_set("PMI_SIZE") => mpi(variables),
                Launcher::Auto if is_set("WORLD_SIZE") => {
                    Err(WorldError::Missing { present: "WORLD_SIZE".into(), missing: "RANK".into() })
                }
                Launcher::Auto | Launcher::None => return Ok(None),
            }
        }?;
        if world.num_ranks == 1 { Ok(None) } else { Ok(Some(world)) }
    }
}

/// Parses a number from a variable that is required together with `present`.
fn number(variables: Variables<'_>, name: &str, present: &str) -> Result<usize, WorldError> {
    let missing = || WorldError::Missing { present: present.to_owned(), missing: name.to_owned() };
    let value = variables(name).ok_or_else(missing)?;
    let invalid = || WorldError::Invalid { name: name.to_owned(), value: value.clone(), expected: "a number".into() };
    value.parse().ok().ok_or_else(invalid)
}

/// Reads rank and number of ranks, and checks that the rank is below the number.
fn place(variables: Variables<'_>, rank: &str, ranks: &str, present: &str) -> Result<(usize, usize), WorldError> {
    let (own, all) = (number(variables, rank, present)?, number(variables, ranks, present)?);
    let invalid = |name: &str, value: usize, expected: String| WorldError::Invalid {
        name: name.to_owned(),
        value: value.to_string(),
        expected,
    };
    match () {
        () if all == 0 => Err(invalid(ranks, all, "at least 1".into())),
        () if own >= all => Err(invalid(rank, own, format!("less than {ranks}={all}"))),
        () => Ok((own, all)),
    }
}

/// Port of rank 0.
fn port(variables: Variables<'_>, default: u16) -> Result<u16, WorldError> {
    let Some(value) = variables("MASTER_PORT") else { return Ok(default) };
    let port = value.parse().ok().filter(|&port| port > 0).ok_or_else(|| WorldError::Invalid {
        name: "MASTER_PORT".into(),
        value: value.clone(),
        expected: "a port from 1 to 65535".into(),
    })?;
    // torchrun's own agent listens there; its workers share nothing else with it.
    let taken = variables("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(if taken { if port < u16::MAX { port + 1 } else { port - 1 } } else { port })
}

fn torchrun(variables: Variables<'_>, present: &str, master: Option<Master>) -> Result<World, WorldError> {
    let (rank, num_ranks) = place(variables, "RANK", "WORLD_SIZE", present)?;
    let optional = |name, default| match variables(name) {
        Some(_) => number(variables, name, present),
        None => Ok(default),
    };
    let (local_rank, num_sharing) = (optional("LOCAL_RANK", rank)?, optional("LOCAL_WORLD_SIZE", 1)?.max(1));
    let master = match master {
        Some(master) => master,
        None if num_ranks == 1 => Master::Address { host: "localhost".into(), port: DEFAULT_PORT },
        None => {
            let missing = || WorldError::Missing { present: present.to_owned(), missing: "MASTER_ADDR".into() };
            Master::Address {
                host: variables("MASTER_ADDR").ok_or_else(missing)?,
                port: port(variables, DEFAULT_PORT)?,
            }
        }
    };
    Ok(World { rank, num_ranks, local_rank, num_sharing, may_see_one_gpu: false, master })
}

fn slurm(variables: Variables<'_>) -> Result<World, WorldError> {
    let tasks = if variables("SLURM_STEP_NUM_TASKS").is_some() { "SLURM_STEP_NUM_TASKS" } else { "SLURM_NTASKS" };
    let (rank, num_ranks) = place(variables, "SLURM_PROCID", tasks, "SLURM_PROCID")?;
    if num_ranks > 1 && variables("SLURM_JOB_ID").is_some() && variables("SLURM_STEP_ID").is_none() {
        return Err(WorldError::NoStep { tasks: num_ranks });
    }
    let local_rank = number(variables, "SLURM_LOCALID", "SLURM_PROCID")?;
    let host = if let Some(host) = variables("MASTER_ADDR") {
        host
    } else {
        let names = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];
        let found = names.into_iter().find_map(|name| Some((name, variables(name)?)));
        let missing = || WorldError::Missing { present: "SLURM_PROCID".into(), missing: "SLURM_JOB_NODELIST".into() };
        let (name, value) = found.ok_or_else(missing)?;
        first_host(&value).ok_or_else(|| WorldError::Invalid {
            name: name.to_owned(),
            value,
            expected: "hosts, such as node[01-04]".into(),
        })?
    };
    // Two jobs can share a host. The port is a function of the job, which all its tasks know.
    let job = variables("SLURM_JOB_ID").and_then(|id| id.parse::<u64>().ok());
    let default = job.map_or(DEFAULT_PORT, |job| 20_000 + (job % 10_000) as u16);
    let master = Master::Address { host, port: port(variables, default)? };
    // Slurm gives each task its own cores, and by option its own GPU.
    Ok(World { rank, num_ranks, local_rank, num_sharing: 1, may_see_one_gpu: true, master })
}

fn mpi(variables: Variables<'_>) -> Result<World, WorldError> {
    let [rank, ranks, local_rank, num_sharing] = if variables("OMPI_COMM_WORLD_RANK").is_some() {
        ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"]
    } else {
        ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"]
    };
    let (own, num_ranks) = place(variables, rank, ranks, rank)?;
    let optional = |name, default| match variables(name) {
        Some(_) => number(variables, name, rank),
        None => Ok(default),
    };
    let (local_rank, num_sharing) = (optional(local_rank, own)?, optional(num_sharing, 1)?.max(1));
    Ok(World { rank: own, num_ranks, local_rank, num_sharing, may_see_one_gpu: false, master: Master::Mpi(None) })
}

fn kubernetes(variables: Variables<'_>) -> Result<World, WorldError> {
    let present = "JOB_COMPLETION_INDEX";
    let (rank, num_ranks) = place(variables, present, "WORLD_SIZE", present)?;
    let missing = || WorldError::Missing { present: present.into(), missing: "MASTER_ADDR".into() };
    let host = variables("MASTER_ADDR").ok_or_else(missing)?;
    let master = Master::Address { host, port: port(variables, DEFAULT_PORT)? };
    // A pod is a rank, with cores and a GPU of its own.
    Ok(World { rank, num_ranks, local_rank: 0, num_sharing: 1, may_see_one_gpu: true, master })
}
