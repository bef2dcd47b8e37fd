//! Tests of sums by NCCL in a group of one rank on a device.

use burn::tensor::{Device, TensorData};

use super::*;
use crate::distributed::group::Timeouts;
use crate::distributed::token::Token;
use crate::distributed::world::{Master, World};
use crate::ops::testing::on_gpus;

/// Group of one rank and its sums: the library, the communicator and the device's stream are those of several ranks.
fn world_of_one() -> (Arc<ProcessGroup>, NcclSum) {
    nccl::library().unwrap_or_else(|reason| panic!("{reason}"));
    let folder = tempfile::tempdir().unwrap();
    let world = World {
        rank: 0,
        num_ranks: 1,
        local_rank: 0,
        num_sharing: 1,
        may_see_one_gpu: false,
        master: Master::File(folder.path().join("address")),
    };
    let group = ProcessGroup::join(&world, &Token::random().unwrap(), Timeouts::default(), None).unwrap();
    let sums = NcclSum::new(Arc::clone(&group));
    (group, sums)
}

fn load(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn sums_of_one_rank_are_its_values(device: &Device) {
    let (group, sums) = world_of_one();
    // The second tensor is larger than a bucket; the second round uses the communicator of the first.
    for round in 0..2 {
        let values = [5, BUCKET_BYTES / 4 + 3, 1000]
            .map(|len| (0..len).map(|at| ((at + round) % 1000) as f32 - 500.0).collect::<Vec<_>>());
        let summed = sums.sum(values.iter().map(|values| load(values, device)).collect()).unwrap();
        assert_eq!(summed.len(), values.len());
        for (sum, values) in summed.into_iter().zip(&values) {
            assert!(sum.into_data().try_to_vec::<f32>().unwrap() == *values, "{} values, round {round}", values.len());
        }
    }
    group.finish().unwrap();
}

fn failed_group_aborts_its_communicator_and_sums_no_more(device: &Device) {
    let (group, sums) = world_of_one();
    let is_formed = || sums.communicator.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    sums.sum(vec![load(&[1.0; 64], device)]).unwrap();
    assert!(is_formed());
    group.abort("an error of this rank");
    assert!(!is_formed());
    let again = sums.sum(vec![load(&[1.0; 64], device)]);
    assert!(matches!(again, Err(ReduceError::Peer(_))), "{:?}", again.err());
}

on_gpus!(sums_of_one_rank_are_its_values, failed_group_aborts_its_communicator_and_sums_no_more);
