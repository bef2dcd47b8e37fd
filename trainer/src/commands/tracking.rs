//! `--mlflow URL`: sends a run to MLflow while it is in progress.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::note;
use super::ranks::Rank;
use crate::checkpoint::Kind;
use crate::cli::RunArgs;
use crate::report::mlflow::{
    Client, Credentials, Description, Link, MlflowError, Pace, Sender, ServerUrl, Status, Tracker,
};
use crate::training::{Event, Outcome, Resume, Summary, Task, TrainingError};

/// Experiment of runs that do not name one.
pub(super) fn default_experiment(kind: Kind) -> &'static str {
    match kind {
        Kind::Pretrain => "hiend-pretrain",
        Kind::Finetune => "hiend-finetune",
    }
}

/// Tracking of a run by MLflow.
pub(super) struct Tracking {
    server: ServerUrl,
    run_dir: PathBuf,
    state: State,
}

enum State {
    /// Tracking of a run that has not begun.
    Prepared(Box<(Client, Description)>),
    /// Tracking of a run in progress.
    Started(Tracker),
    /// No tracking: no server was named, or the server cannot be used.
    Off,
}

impl Tracking {
    /// Asks the server for the experiment before any time is spent. `None` without `--mlflow`, for a run that keeps no
    /// results, and on all ranks except the first.
    ///
    /// An unreachable server does not prevent a run: the tracker warns of it. A resumed run, which a batch system may
    /// have started at night, does not contact the server in advance at all.
    pub(super) fn prepare<T: Task>(
        args: &RunArgs,
        run_dir: &Path,
        resume: Resume,
        stream_digest: &str,
        rank: &Rank,
    ) -> anyhow::Result<Option<Self>> {
        let Some(server) = args.mlflow.as_ref().filter(|_| rank.is_first()) else { return Ok(None) };
        let client = Client::new(server, Credentials::of_environment()?)?;
        let description = Description {
            experiment: args.mlflow_experiment.clone().unwrap_or_else(|| default_experiment(T::KIND).to_owned()),
            is_named: args.mlflow_experiment.is_some(),
            is_live: true,
            begins: resume == Resume::Begin,
            // Known when the run starts.
            step: 0,
            stream_digest: Some(stream_digest.to_owned()),
        };
        if description.begins {
            match client.experiment(&description.experiment) {
                Ok(_) if args.smoke => rank.note(format_args!("MLflow server {server} answers")),
                Ok(_) => {}
                Err(error) if error.is_temporary() && args.smoke => rank.note(format_args!("warning: {error}")),
                Err(error) if error.is_temporary() => {}
                Err(error) => return Err(error.into()),
            }
        } else if let Ok(Some(link)) = Link::read(run_dir)
            && description.names_other_than(&link.experiment)
        {
            let (tracked, wanted) = (link.experiment, description.experiment);
            return Err(MlflowError::OtherExperiment { run_dir: run_dir.to_owned(), tracked, wanted }.into());
        }
        if args.smoke {
            return Ok(None);
        }
        let (server, run_dir) = (server.clone(), run_dir.to_owned());
        Ok(Some(Self { server, run_dir, state: State::Prepared(Box::new((client, description))) }))
    }

    /// Starts the tracker when the run begins, and passes every new line of the journal to it.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { step, .. } => {
                let State::Prepared(prepared) = std::mem::replace(&mut self.state, State::Off) else { return };
                let (client, description) = *prepared;
                match start(client, &self.run_dir, Description { step: *step, ..description }) {
                    Ok(tracker) => self.state = State::Started(tracker),
                    Err(error) => tracing::warn!("nothing is sent to MLflow: {error:#}"),
                }
            }
            Event::Step(_) | Event::Validation(_) => {
                if let State::Started(tracker) = &self.state {
                    tracker.notify();
                }
            }
            _ => {}
        }
    }

    /// Sends the rest of the journal and the final status, and prints a note if that is not possible.
    pub(super) fn finish(self, result: &Result<Summary, TrainingError>) {
        let State::Started(tracker) = self.state else { return };
        let status = status_of(result);
        let (run, server) = (self.run_dir.display(), &self.server);
        let waiting = |time: Duration| {
            note(format_args!("waiting up to {} s for MLflow server {server} to take the rest", time.as_secs()));
        };
        if let Err(reason) = tracker.finish(status, waiting) {
            let reason = anyhow::Error::from(reason);
            note(format_args!(
                "warning: MLflow has not received everything: {reason:#}; `hiend-train track {run} --mlflow {server}` sends \
                 the rest"
            ));
        }
    }
}

/// Status of a run with this result.
fn status_of(result: &Result<Summary, TrainingError>) -> Status {
    match result {
        Ok(Summary { outcome: Outcome::Finished, .. }) => Status::Finished,
        Ok(_) => Status::Killed,
        // Waiting for data was cut short, on this rank or another one.
        Err(error) if error.is_stop() => Status::Killed,
        Err(_) => Status::Failed,
    }
}

fn start(client: Client, run_dir: &Path, description: Description) -> anyhow::Result<Tracker> {
    Ok(Tracker::start(Sender::open(client, run_dir, description)?, Pace::default())?)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;
    use crate::distributed::{Cause, PeerFailure};

    #[test]
    fn run_that_a_rank_stopped_is_killed_and_one_with_an_error_has_failed() {
        let of_rank = |cause| {
            let failure = PeerFailure { rank: 1, name: "host".into(), cause };
            status_of(&Err(TrainingError::Rank { failure, step: 3, sound: true, last_good: None }))
        };
        assert_eq!(of_rank(Cause::Stopped("waited".into())), Status::Killed);
        assert_eq!(of_rank(Cause::Failed("no".into())), Status::Failed);
        let of_io = |error: Error| {
            let (step, source) = (3, error.into());
            status_of(&Err(TrainingError::Open { step, source }))
        };
        assert_eq!(of_io(Error::new(ErrorKind::Interrupted, hiend_cache::Abandoned)), Status::Killed);
        assert_eq!(of_io(ErrorKind::Interrupted.into()), Status::Failed);
        assert_eq!(of_io(ErrorKind::StorageFull.into()), Status::Failed);
    }
}
