//! Runs every model under many schedules: random ones, and ones with few thread switches at chosen points, which find
//! rare orders sooner. `HIEND_CAMPAIGN` multiplies their number.

use hiend_models::{budget_model, distributed, pipeline, service};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Number of thread switches in a schedule of the second kind.
const DEPTH: usize = 3;

/// Runs a model under `num` schedules of each kind.
fn check(model: fn(), num: usize) {
    let factor =
        std::env::var("HIEND_CAMPAIGN").map_or(1, |factor| factor.parse().expect("HIEND_CAMPAIGN is a number"));
    let num = num * factor;
    let run = Runner::new(RandomScheduler::new_from_seed(1, num), config()).run(model)
        + Runner::new(PctScheduler::new_from_seed(1, DEPTH, num), config()).run(model);
    assert_eq!(run, 2 * num);
}

/// Configuration with thread stacks large enough for formatting errors.
fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    // The warnings concern atomics, whose orderings are all modelled as the strictest one.
    config.silence_warnings = true;
    config
}

#[test]
fn byte_budget_is_never_exceeded_and_no_thread_waits_forever() {
    check(budget_model::two_takers, 2000);
    check(budget_model::four_takers, 2000);
}

#[test]
fn read_ahead_stays_within_its_budget_and_ends() {
    check(pipeline::read_ahead_of_two_workers, 2000);
    check(pipeline::read_ahead_of_a_dropped_stream, 2000);
}

#[test]
fn buffers_return_to_their_pools_and_the_oldest_step_never_waits_for_one() {
    check(pipeline::all_batches_are_taken, 2000);
    check(pipeline::a_stream_is_dropped, 2000);
    check(pipeline::a_stream_is_dropped_at_once, 2000);
}

#[test]
fn clients_share_the_service_within_their_memory() {
    check(service::two_clients_read_their_batches, 1000);
    check(service::the_server_stops, 2000);
}

#[test]
fn cancelled_job_goes_although_nothing_else_happens() {
    check(service::a_waiting_job_is_cancelled, 2000);
}

#[test]
fn ranks_meet_and_leave() {
    check(distributed::ranks_gather_and_leave, 500);
}

#[test]
fn failure_of_a_rank_ends_all_ranks() {
    check(distributed::one_rank_fails, 500);
    check(distributed::two_ranks_fail, 500);
    check(distributed::one_rank_is_killed, 500);
    check(distributed::one_rank_is_killed_at_the_end, 500);
}
