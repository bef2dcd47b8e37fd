//! Errors of URLs that cannot name a cache.

/// A URL that cannot be the location of a cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// A scheme that is not supported.
    #[error("{url}: unknown scheme; expected a folder, or a URL that begins with s3://, gs://, az:// or https://")]
    Scheme {
        /// URL as given, with its unsupported scheme.
        url: String,
    },
    /// A scheme followed by fewer than two slashes.
    #[error("{text}: looks like a URL with a slash missing; expected {url}, or ./{text} for a folder of this name")]
    Slashes {
        /// Location as given, with a slash missing.
        text: String,
        /// The URL that was probably meant.
        url: String,
    },
    /// A URL without a bucket, container or host.
    #[error("{url}: no bucket or host; expected a URL such as s3://bucket/prefix")]
    Host {
        /// URL as given, without a bucket or host.
        url: String,
    },
    /// A URL with a user name, a query or a fragment.
    #[error(
        "{url}: has a user name, `?` or `#`; expected bucket and prefix only (credentials are read from the environment)"
    )]
    Extra {
        /// The URL; cut off after its scheme if it contains a user name.
        url: String,
    },
    /// A URL that is not valid Unicode.
    #[error("{url}: not valid Unicode")]
    Unicode {
        /// The URL, with replacement characters.
        url: String,
    },
    /// A URL in a program that was built without object storage.
    #[error("{url}: this program was built without object storage (feature object-store of hiend-cache)")]
    Unsupported {
        /// URL as given, which this program cannot open.
        url: String,
    },
}
