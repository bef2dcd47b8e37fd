use super::*;

fn find(launcher: Launcher, variables: &[(&str, &str)]) -> Result<Option<World>, WorldError> {
    let value = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
    World::find(launcher, &value)
}

fn auto(variables: &[(&str, &str)]) -> Result<Option<World>, WorldError> {
    find(Launcher::Auto, variables)
}

fn address(host: &str, port: u16) -> Master {
    Master::Address { host: host.into(), port }
}

const TORCHRUN: [(&str, &str); 6] = [
    ("RANK", "5"),
    ("WORLD_SIZE", "8"),
    ("LOCAL_RANK", "1"),
    ("LOCAL_WORLD_SIZE", "4"),
    ("MASTER_ADDR", "node1"),
    ("MASTER_PORT", "29400"),
];

#[test]
fn torchrun_environment_is_read() {
    let world = auto(&TORCHRUN).unwrap().unwrap();
    assert_eq!((world.rank, world.num_ranks, world.local_rank, world.num_sharing), (5, 8, 1, 4));
    assert_eq!(world.master, address("node1", 29_400));
    // The agent of torchrun listens at MASTER_PORT itself.
    let elastic: Vec<_> = TORCHRUN.into_iter().chain([("TORCHELASTIC_USE_AGENT_STORE", "True")]).collect();
    assert_eq!(auto(&elastic).unwrap().unwrap().master, address("node1", 29_401));
}

#[test]
fn slurm_environment_is_read() {
    let step =
        [("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "1"), ("SLURM_JOB_NODELIST", "gpu[07-08]")];
    let world = auto(&step).unwrap().unwrap();
    assert_eq!((world.rank, world.num_ranks, world.local_rank), (3, 4, 1));
    assert_eq!(world.master, address("gpu07", DEFAULT_PORT));
    let job: Vec<_> = step.into_iter().chain([("SLURM_JOB_ID", "4031234")]).collect();
    assert_eq!(auto(&job).unwrap_err(), WorldError::NoStep { tasks: 4 });
    let job: Vec<_> = job.into_iter().chain([("SLURM_STEP_ID", "0")]).collect();
    assert_eq!(auto(&job).unwrap().unwrap().master, address("gpu07", 21_234));
    let job: Vec<_> = job.into_iter().chain([("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "5000")]).collect();
    assert_eq!(auto(&job).unwrap().unwrap().master, address("10.0.0.1", 5000));
}

#[test]
fn kubernetes_environment_is_read() {
    let pod = [("JOB_COMPLETION_INDEX", "2"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "train-0.train")];
    let world = auto(&pod).unwrap().unwrap();
    assert_eq!((world.rank, world.num_ranks, world.local_rank), (2, 4, 0));
    assert_eq!(world.master, address("train-0.train", DEFAULT_PORT));
    // An indexed job that does something else.
    assert_eq!(auto(&pod[..1]), Ok(None));
}

#[test]
fn environment_of_mpi_is_read() {
    let open_mpi = [
        ("OMPI_COMM_WORLD_RANK", "3"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        // Set by Slurm for the batch script that called mpirun.
        ("SLURM_PROCID", "0"),
        ("SLURM_NTASKS", "4"),
    ];
    for launcher in [Launcher::Auto, Launcher::Mpi] {
        let world = find(launcher, &open_mpi).unwrap().unwrap();
        assert_eq!((world.rank, world.num_ranks, world.local_rank, world.num_sharing), (3, 4, 1, 2));
        assert_eq!(world.master, Master::Mpi(None));
    }
    let mpich = [("PMI_RANK", "1"), ("PMI_SIZE", "2")];
    for launcher in [Launcher::Auto, Launcher::Mpi] {
        let world = find(launcher, &mpich).unwrap().unwrap();
        assert_eq!((world.rank, world.num_ranks, world.num_sharing), (1, 2, 1));
    }
    let error = find(Launcher::Mpi, &[]).unwrap_err().to_string();
    assert_eq!(error, "--ranks mpi: OMPI_COMM_WORLD_RANK is not set");
    assert!(auto(&open_mpi[..1]).unwrap_err().to_string().contains("OMPI_COMM_WORLD_SIZE is not"));
}

#[test]
fn own_children_are_found_before_anything_else() {
    let child = [("HIEND_RENDEZVOUS", "run/address"), ("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")];
    for launcher in [Launcher::Auto, Launcher::None, Launcher::Slurm] {
        let world = find(launcher, &child).unwrap().unwrap();
        assert_eq!((world.rank, &world.master), (1, &Master::File("run/address".into())));
    }
}

#[test]
fn a_variable_that_is_not_text_is_an_error_where_it_is_read() {
    let of = |launcher, refused: &str| {
        World::of_variables(launcher, |name| match TORCHRUN.iter().find(|(other, _)| *other == name) {
            _ if name == refused => Err(NotText { name: name.to_owned() }),
            value => Ok(value.map(|(_, value)| (*value).to_owned())),
        })
    };
    assert_eq!(of(Launcher::Auto, "none"), auto(&TORCHRUN));
    for refused in ["RANK", "MASTER_ADDR", "MASTER_PORT"] {
        let error = of(Launcher::Auto, refused).unwrap_err();
        assert_eq!(error, WorldError::NotText(NotText { name: refused.to_owned() }));
        assert_eq!(of(Launcher::None, refused), Ok(None));
    }
}

#[test]
fn incomplete_environment_is_an_error_and_never_a_world_of_one() {
    let check = |variables: &[(&str, &str)], message: &str| {
        let error = auto(variables).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    };
    check(&[("RANK", "0")], "RANK is set but WORLD_SIZE is not");
    check(&[("WORLD_SIZE", "2")], "WORLD_SIZE is set but RANK is not");
    check(&[("RANK", "0"), ("WORLD_SIZE", "2")], "RANK is set but MASTER_ADDR is not");
    check(&[("RANK", "2"), ("WORLD_SIZE", "2")], "RANK=2: expected less than WORLD_SIZE=2");
    check(&[("RANK", "0"), ("WORLD_SIZE", "0")], "WORLD_SIZE=0: expected at least 1");
    check(&[("RANK", "-1"), ("WORLD_SIZE", "2")], "RANK=-1: expected a number");
    let port = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "0")];
    check(&port, "MASTER_PORT=0: expected a port");
    let slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "0"), ("SLURM_JOB_NODELIST", "n[")];
    check(&slurm, "SLURM_JOB_NODELIST=n[: expected hosts");
    assert!(find(Launcher::Slurm, &[]).unwrap_err().to_string().starts_with("--ranks slurm: SLURM_PROCID"));
}

#[test]
fn one_process_is_alone() {
    assert_eq!(auto(&[]), Ok(None));
    assert_eq!(auto(&[("RANK", "0"), ("WORLD_SIZE", "1")]), Ok(None));
    assert_eq!(find(Launcher::None, &TORCHRUN), Ok(None));
    assert_eq!(
        auto(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_LOCALID", "0"), ("MASTER_ADDR", "x")]),
        Ok(None)
    );
}
