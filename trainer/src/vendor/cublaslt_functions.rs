//! Names of cuBLASLt's functions, apart from the code that calls them by bindings, which only a build with CUDA has: any build
//! can compare them with a library.

/// Functions that `cublaslt` calls.
pub const FUNCTIONS: [&str; 14] = [
    "cublasLtCreate",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutSetAttribute",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::library::{Library, Places, has_symbols, open};

    #[test]
    #[ignore = "needs cuBLASLt, such as the wheel nvidia-cublas in the active Python environment; neither driver nor device"]
    fn the_library_has_all_functions() {
        let found = open(Library::CublasLt, &Places::of_process()).unwrap_or_else(|reason| panic!("{reason}"));
        println!("{found:?}");
        assert_eq!(has_symbols(&found, &FUNCTIONS), Ok(()));
        assert_eq!(has_symbols(&found, &["cublasLtCreate", "cublasLtNothing"]), Err("cublasLtNothing"));
        // Versions before 12 have no name that is looked for.
        let version = found.version.expect("the library reports its version");
        let major: u32 = version.split('.').next().unwrap().parse().unwrap();
        assert!(major >= 12, "{version}");
    }
}
