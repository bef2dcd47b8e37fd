//! Tests of NCCL: a group of one rank on a device, and the library's calls that need no device.

use burn::tensor::{Device, TensorData};

use super::*;
use crate::distributed::group::Timeouts;
use crate::distributed::token::Token;
use crate::distributed::world::{Master, World};
use crate::ops::testing::on_gpus;
use crate::vendor::library::loads_by_name;

/// Group of one rank and its sums: the library, the communicator and the device's stream are those of several ranks.
fn world_of_one() -> (Arc<ProcessGroup>, NcclSum) {
    assert!(loads_by_name("libnccl.so"), "NCCL is not found by the name libnccl.so");
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

/// Test of the library without a device, which `tests/gpu/nccl` runs.
#[cfg(test)]
mod without_a_device {
    use std::mem::offset_of;

    use super::*;

    /// Environment variable with NCCL's version and a configuration that only sets calls to non-blocking, as the header
    /// of the library defines them: a number, and the bytes as hexadecimal digits.
    const HEADER: &str = "HIEND_NCCL_HEADER";
    /// Calls of the library that [`NcclSum`] makes.
    const CALLS: [&str; 7] = [
        "ncclAllReduce",
        "ncclCommAbort",
        "ncclCommGetAsyncError",
        "ncclCommInitRankConfig",
        "ncclGetUniqueId",
        "ncclGroupEnd",
        "ncclGroupStart",
    ];

    #[test]
    #[ignore = "needs NCCL and its header: tests/gpu/nccl DIR"]
    fn library_has_the_calls_and_takes_the_configuration() {
        let header = std::env::var(HEADER).expect("tests/gpu/nccl sets HIEND_NCCL_HEADER");
        let (version, digits) = header.split_once(' ').unwrap();
        assert_eq!(result::get_nccl_version().unwrap().to_string(), version);

        // SAFETY: NCCL's initializers may run in any process.
        let library = unsafe { libloading::Library::new("libnccl.so") }.unwrap();
        for call in CALLS {
            // SAFETY: the symbol is looked up, not called.
            let found = unsafe { library.get::<unsafe extern "C" fn()>(call.as_bytes()) };
            assert!(found.is_ok(), "{call}");
        }
        let [first, second] = [0, 1].map(|_| result::get_uniqueid().unwrap().internal);
        assert_ne!(first, second);

        // Size and version differ between versions of the library, which append fields at the end.
        let theirs: Vec<u8> =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
        let mut config = configuration();
        let end = offset_of!(sys::ncclConfig_t, maxP2pPeers) + size_of::<c_int>();
        // SAFETY: the fields up to `end` have no padding between them.
        let ours = unsafe { std::slice::from_raw_parts((&raw const config).cast::<u8>(), end) };
        let magic = offset_of!(sys::ncclConfig_t, magic)..offset_of!(sys::ncclConfig_t, version);
        let settings = offset_of!(sys::ncclConfig_t, blocking)..end.min(theirs.len());
        assert_eq!(ours[magic.clone()], theirs[magic]);
        assert_eq!(ours[settings.clone()], theirs[settings]);

        let (mut raw, id): (sys::ncclComm_t, _) = (ptr::null_mut(), result::get_uniqueid().unwrap());
        // SAFETY: all pointers are to live values.
        let formed = unsafe { result::comm_init_rank_config(&raw mut raw, 1, id, 0, &raw mut config) };
        let Err(error) = formed else { panic!("this machine has a device: run the tests on it instead") };
        assert_eq!(error.0, sys::ncclResult_t::ncclUnhandledCudaError);
        assert!(raw.is_null());
    }
}
