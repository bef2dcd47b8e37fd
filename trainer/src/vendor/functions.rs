//! Tables of a library's functions, looked up by name.

/// Declares `Functions`, a private struct of the functions that a module calls, with the types of the library's header.
macro_rules! functions {
    ($($field:ident: $symbol:literal, fn($($argument:ty),*) -> $result:ty;)*) => {
        /// Required functions of the library, with the types of its header.
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// Looks up all functions; returns the name of the first missing one as the error.
            ///
            /// # Safety
            /// `library` is the one whose functions these are, and stays loaded.
            unsafe fn of(library: &libloading::Library) -> Result<Self, &'static str> {
                // SAFETY: each symbol has the type that the library's header gives it.
                unsafe {
                    Ok(Self { $($field: *library.get($symbol.as_bytes()).map_err(|_| $symbol)?,)* })
                }
            }
        }
    };
}
pub(super) use functions;
