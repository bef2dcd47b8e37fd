//! Usual places of NVIDIA's libraries.
//!
//! Folders of `LD_LIBRARY_PATH`, folders below `CUDA_PATH`, the `nvidia-*` wheels of the active Python environment
//! (`VIRTUAL_ENV`, `CONDA_PREFIX`), the system's folders, and the wheels of the system's Python, in this order.

use std::path::{Path, PathBuf};

use hiend_cache::lookup;

use super::Library;

/// Places to search for libraries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Folders of `LD_LIBRARY_PATH`.
    pub library_path: Vec<PathBuf>,
    /// `CUDA_PATH`.
    pub cuda_path: Option<PathBuf>,
    /// Roots of active Python environments.
    pub environments: Vec<PathBuf>,
    /// Root of the file system; another folder in tests.
    pub root: PathBuf,
}

impl Places {
    /// Search paths of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            library_path: path("LD_LIBRARY_PATH").map_or_else(Vec::new, |list| std::env::split_paths(&list).collect()),
            cuda_path: path("CUDA_PATH").map(PathBuf::from),
            environments: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(path).map(PathBuf::from).collect(),
            root: PathBuf::from("/"),
        }
    }

    /// Every file of `library` that exists, the preferred one first; empty if there is none.
    #[must_use]
    pub fn find(&self, library: Library) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in self.folders(library) {
            for file in library.files() {
                let path = folder.join(file);
                if is_there(&path) && !found.contains(&path) {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Folders to look in, in order; most of them need not exist.
    #[must_use]
    pub fn folders(&self, library: Library) -> Vec<PathBuf> {
        let in_toolkit = |root: &Path| library.toolkit_folders().iter().map(|f| root.join(f)).collect::<Vec<_>>();
        let system = |folder: &&str| self.root.join(folder);
        let mut folders = Vec::new();
        if library != Library::Libdevice {
            folders.extend(self.library_path.iter().cloned());
        }
        folders.extend(self.cuda_path.iter().flat_map(|root| in_toolkit(root)));
        folders.extend(self.environments.iter().flat_map(|root| wheels(root, library)));
        folders.extend(TOOLKITS.iter().map(system).flat_map(|root| in_toolkit(&root)));
        if library != Library::Libdevice {
            folders.extend(SYSTEM.iter().map(system));
        }
        folders.extend(PYTHONS.iter().map(system).flat_map(|root| wheels(&root, library)));
        folders
    }
}

/// Library with the mathematical functions of kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Libdevice {
    /// File where the code generator finds it.
    Usable(PathBuf),
    /// Folder where the code generator finds it only if `CUDA_PATH` is set to it.
    Elsewhere(PathBuf),
    /// Absent from all usual places.
    Missing,
}

impl Places {
    /// Folders in which `CubeCL`'s code generator looks for libdevice (cubecl-llvm 0.11.3, `nvptx/libdevice.rs`): only
    /// below `CUDA_PATH`, if that is set.
    #[must_use]
    pub fn libdevice_folders(&self) -> Vec<PathBuf> {
        let roots = match &self.cuda_path {
            Some(path) => vec![path.clone()],
            None => TOOLKITS.iter().map(|folder| self.root.join(folder)).collect(),
        };
        roots.into_iter().map(|root| root.join("nvvm/libdevice")).collect()
    }

    /// Value of `CUDA_PATH` with which the code generator finds libdevice; `None` if it does already, if the variable is set,
    /// which may be for another library, if libdevice is nowhere, or if it lies outside of the active environments, before whose
    /// libraries those of `CUDA_PATH` come.
    #[must_use]
    pub fn cuda_path_for_libdevice(&self) -> Option<PathBuf> {
        let is_theirs = |root: &Path| self.environments.iter().any(|environment| root.starts_with(environment));
        match self.libdevice() {
            Libdevice::Elsewhere(root) if self.cuda_path.is_none() => {
                (self.environments.is_empty() || is_theirs(&root)).then_some(root)
            }
            _ => None,
        }
    }

    /// Finds libdevice, in the code generator's folders first.
    #[must_use]
    pub fn libdevice(&self) -> Libdevice {
        let [name, ..] = Library::Libdevice.files() else { unreachable!("it has a name") };
        let usable = self.libdevice_folders().into_iter().map(|folder| folder.join(name)).find(|path| is_there(path));
        if let Some(path) = usable {
            return Libdevice::Usable(path);
        }
        // ROOT/nvvm/libdevice/libdevice.10.bc
        let elsewhere = self.find(Library::Libdevice).into_iter().next();
        elsewhere
            .and_then(|path| Some(Libdevice::Elsewhere(path.ancestors().nth(3)?.to_owned())))
            .unwrap_or(Libdevice::Missing)
    }
}

/// Returns true if a file exists. A path that cannot be accessed is skipped with a warning, because another folder may
/// have the file.
fn is_there(path: &Path) -> bool {
    lookup::is_file(path).unwrap_or_else(|error| {
        tracing::warn!("{error}: {}; looking elsewhere", error.source);
        false
    })
}

/// Usual places of a CUDA installation.
const TOOLKITS: [&str; 4] = ["usr/local/cuda", "opt/cuda", "usr/lib/cuda", "usr"];
/// Usual places of libraries.
const SYSTEM: [&str; 6] =
    ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib", "usr/local/nvidia/lib64", "usr/lib/wsl/lib"];
/// Roots of the system's Python.
const PYTHONS: [&str; 2] = ["usr/local", "usr"];

/// Folders of wheels below a Python environment's `lib/python3.*`, by name.
fn wheels(environment: &Path, library: Library) -> Vec<PathBuf> {
    let folder = environment.join("lib");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!("{}: cannot list: {error}; looking elsewhere", folder.display());
            }
            return vec![];
        }
    };
    let is_python = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
    let mut pythons: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_python).collect();
    pythons.sort();
    let packages = |python: PathBuf| ["site-packages", "dist-packages"].map(|name| python.join(name).join("nvidia"));
    let folders = |nvidia: PathBuf| library.wheel_folders().iter().map(move |folder| nvidia.join(folder));
    pythons.into_iter().flat_map(packages).flat_map(folders).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder tree in which the given files exist.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn of(files: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for file in files {
                let path = tree.at(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "not a library").unwrap();
            }
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn places(&self) -> Places {
            Places { root: self.0.path().to_owned(), ..Places::default() }
        }

        /// Files found, relative to the tree.
        fn find(&self, library: Library, places: &Places) -> Vec<String> {
            let relative = |path: PathBuf| path.strip_prefix(self.0.path()).unwrap().display().to_string();
            places.find(library).into_iter().map(relative).collect()
        }
    }

    #[test]
    fn libdevice_of_a_wheel_is_made_known_unless_cuda_path_says_otherwise() {
        let wheel = "home/env/lib/python3.12/site-packages/nvidia/cu13/nvvm/libdevice/libdevice.10.bc";
        let tree = Tree::of(&[wheel]);
        let places =
            Places { root: tree.0.path().to_owned(), environments: vec![tree.at("home/env")], ..Places::default() };
        let root = tree.at("home/env/lib/python3.12/site-packages/nvidia/cu13");
        assert_eq!(places.cuda_path_for_libdevice(), Some(root.clone()));
        // After the restart there is nothing left to do.
        let restarted = Places { cuda_path: Some(root), ..places.clone() };
        assert_eq!(restarted.cuda_path_for_libdevice(), None);
        // Set by the user, for another library perhaps.
        let other = Places { cuda_path: Some(tree.at("opt/mine")), ..places.clone() };
        assert_eq!(other.cuda_path_for_libdevice(), None);
        assert_eq!(Places { environments: vec![], ..places }.cuda_path_for_libdevice(), None);
        let toolkit = Tree::of(&[wheel, "usr/local/cuda/nvvm/libdevice/libdevice.10.bc"]);
        let places = Places {
            root: toolkit.0.path().to_owned(),
            environments: vec![toolkit.at("home/env")],
            ..Places::default()
        };
        assert_eq!(places.cuda_path_for_libdevice(), None);
    }

    #[test]
    fn libdevice_of_the_systems_wheel_does_not_put_its_libraries_before_those_of_the_environment() {
        let wheel = "usr/local/lib/python3.12/dist-packages/nvidia/cu13";
        let tree = Tree::of(&[&format!("{wheel}/nvvm/libdevice/libdevice.10.bc"), WHEEL_FILE]);
        let alone = tree.places();
        assert_eq!(alone.cuda_path_for_libdevice(), Some(tree.at(wheel)));
        let active = Places { environments: vec![tree.at("home/env")], ..alone };
        assert_eq!(active.libdevice(), Libdevice::Elsewhere(tree.at(wheel)));
        assert_eq!(active.cuda_path_for_libdevice(), None);
    }

    const SYSTEM_FILE: &str = "usr/lib/x86_64-linux-gnu/libcublasLt.so.12";
    const TOOLKIT_FILE: &str = "usr/local/cuda/lib64/libcublasLt.so";
    const WHEEL_FILE: &str = "home/env/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13";
    const OLD_WHEEL_FILE: &str = "home/env/lib/python3.12/site-packages/nvidia/cublas/lib/libcublasLt.so.12";

    #[test]
    fn the_systems_folders_are_searched_without_any_variable() {
        let tree = Tree::of(&[SYSTEM_FILE, TOOLKIT_FILE, WHEEL_FILE]);
        assert_eq!(tree.find(Library::CublasLt, &tree.places()), [TOOLKIT_FILE, SYSTEM_FILE]);
        assert!(tree.find(Library::Nccl, &tree.places()).is_empty());
    }

    #[test]
    fn an_active_python_environment_comes_before_the_system() {
        let tree = Tree::of(&[SYSTEM_FILE, WHEEL_FILE, OLD_WHEEL_FILE]);
        let places = Places { environments: vec![tree.at("home/env")], ..tree.places() };
        assert_eq!(tree.find(Library::CublasLt, &places), [WHEEL_FILE, OLD_WHEEL_FILE, SYSTEM_FILE]);
    }

    #[test]
    fn explicit_paths_come_first() {
        let tree = Tree::of(&[SYSTEM_FILE, WHEEL_FILE, "cuda-13/lib64/libcublasLt.so", "mine/libcublasLt.so.13"]);
        let places = Places {
            library_path: vec![tree.at("nothing here"), tree.at("mine")],
            cuda_path: Some(tree.at("cuda-13")),
            environments: vec![tree.at("home/env")],
            ..tree.places()
        };
        let expected = ["mine/libcublasLt.so.13", "cuda-13/lib64/libcublasLt.so", WHEEL_FILE, SYSTEM_FILE];
        assert_eq!(tree.find(Library::CublasLt, &places), expected);
    }

    #[test]
    fn libdevice_is_found_below_toolkits_and_in_wheels() {
        let wheel = "home/env/lib/python3.11/site-packages/nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc";
        let tree = Tree::of(&[wheel, "usr/lib/cuda/nvvm/libdevice/libdevice.10.bc", "elsewhere/libdevice.10.bc"]);
        let places = Places {
            library_path: vec![tree.at("elsewhere")],
            environments: vec![tree.at("home/env")],
            ..tree.places()
        };
        let expected = [wheel, "usr/lib/cuda/nvvm/libdevice/libdevice.10.bc"];
        assert_eq!(tree.find(Library::Libdevice, &places), expected);
    }

    #[test]
    fn libdevice_outside_the_code_generators_folders_names_the_folder_to_set() {
        let toolkit = "usr/local/cuda/nvvm/libdevice/libdevice.10.bc";
        let wheel = "home/env/lib/python3.11/site-packages/nvidia/cu13/nvvm/libdevice/libdevice.10.bc";
        let tree = Tree::of(&[toolkit, wheel]);
        assert_eq!(tree.places().libdevice(), Libdevice::Usable(tree.at(toolkit)));
        // With CUDA_PATH set, the code generator looks nowhere else.
        let set = Places { cuda_path: Some(tree.at("cuda-13")), ..tree.places() };
        assert_eq!(set.libdevice_folders(), [tree.at("cuda-13/nvvm/libdevice")]);
        assert_eq!(set.libdevice(), Libdevice::Elsewhere(tree.at("usr/local/cuda")));
        let tree = Tree::of(&[wheel]);
        let active = Places { environments: vec![tree.at("home/env")], ..tree.places() };
        let root = "home/env/lib/python3.11/site-packages/nvidia/cu13";
        assert_eq!(active.libdevice(), Libdevice::Elsewhere(tree.at(root)));
        assert_eq!(tree.places().libdevice(), Libdevice::Missing);
    }
}
