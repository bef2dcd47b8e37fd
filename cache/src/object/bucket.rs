//! A prefix of a bucket, used as a folder.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::connect::{connect, io_error, is_absent};
use super::runtime::wait;
use super::transport::is_abandoned;
use crate::error::{FileError, Result};
use crate::location::Location;

/// A prefix of a bucket. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    location: Location,
}

/// Description of an object in a listing.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Name below the prefix.
    pub(crate) name: String,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Time of the last change, by the server's clock.
    pub(crate) modified: SystemTime,
    /// Version of the content.
    pub(crate) version: Version,
}

/// Prefix of a weak entity tag.
const WEAK: &str = "W/";

/// Version of an object's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    /// Entity tag, as HTTP defines it.
    pub(crate) e_tag: Option<String>,
    /// Number that some stores give to each version.
    pub(crate) number: Option<String>,
}

impl Version {
    /// Entity tag for the `If-Match` header of a request that reads; `None` for a weak one, which matches nothing there.
    fn if_match(&self) -> Option<String> {
        self.e_tag.clone().filter(|tag| !tag.starts_with(WEAK))
    }

    /// Version for a request that replaces an object. A weak tag comes from a gateway that compressed the response;
    /// without its prefix it is the tag that the store itself compares.
    fn for_update(&self) -> UpdateVersion {
        let strong = |tag: &String| tag.strip_prefix(WEAK).unwrap_or(tag).to_owned();
        UpdateVersion { e_tag: self.e_tag.as_ref().map(strong), version: self.number.clone() }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("location", &self.location).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Connects to a URL. Makes no request.
    ///
    /// # Errors
    /// If the URL is not valid or the environment does not say how to connect.
    pub(crate) fn open(location: &Location, retry: Duration) -> Result<Self> {
        location.check()?;
        let (store, prefix) = connect(location, retry)?;
        Ok(Self { store, prefix, location: location.clone() })
    }

    /// Bucket in the memory of this process, without objects.
    #[cfg(test)]
    pub(super) fn of_memory() -> Self {
        let store = Arc::new(object_store::memory::InMemory::new());
        Self { store, prefix: ObjectPath::from("cache"), location: Location::from("s3://bucket/cache") }
    }

    /// Location of the prefix.
    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// URL of an object, in the form of a path.
    pub(crate) fn url_of(&self, name: &str) -> PathBuf {
        self.location.join(name)
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(super) fn object(&self, name: &str) -> ObjectPath {
        // `name` may have several parts.
        name.split('/').fold(self.prefix.clone(), ObjectPath::join)
    }

    /// Objects directly below `folder` of this prefix, or below the prefix itself if `folder` is empty.
    ///
    /// # Errors
    /// If the request fails, or the server cannot list objects.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<Object>, FileError> {
        let path = if folder.is_empty() { self.prefix.clone() } else { self.object(folder) };
        let store = Arc::clone(&self.store);
        let listed = wait(async move { store.list_with_delimiter(Some(&path)).await });
        let listed = listed.and_then(|listed| listed.map_err(|err| io_error(&err)));
        let listed = listed.map_err(FileError::at(self.url_of(folder), "list"))?;
        Ok(listed.objects.into_iter().filter_map(Object::of).collect())
    }

    /// Describes an object; `None` if there is none of this name.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Object>, FileError> {
        let (store, path) = (Arc::clone(&self.store), self.object(name));
        let found = wait(async move { store.head(&path).await });
        match found.map_err(FileError::at(self.url_of(name), "look up"))? {
            Ok(meta) => Ok(Object::of(meta)),
            Err(err) if is_absent(&err) => Ok(None),
            Err(err) => Err(FileError::at(self.url_of(name), "look up")(io_error(&err))),
        }
    }

    /// Reads a small object and its version; `None` if there is none of this name.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) fn read(&self, name: &str) -> Result<Option<(Bytes, Version)>, FileError> {
        let (store, path) = (Arc::clone(&self.store), self.object(name));
        let read = wait(async move {
            let result = store.get(&path).await?;
            let version = Version { e_tag: result.meta.e_tag.clone(), number: result.meta.version.clone() };
            Ok((result.bytes().await?, version))
        });
        match read.map_err(FileError::at(self.url_of(name), "read"))? {
            Ok(read) => Ok(Some(read)),
            Err(err) if is_absent(&err) => Ok(None),
            Err(err) => Err(FileError::at(self.url_of(name), "read")(io_error(&err))),
        }
    }

    /// Reads a range of an object, provided that the object still has this version. A server with only weak entity tags
    /// does not compare versions; the checksums of the shard then detect bytes of another version.
    pub(super) fn range(
        &self,
        name: &str,
        version: &Version,
        range: Range<u64>,
    ) -> impl Future<Output = io::Result<Bytes>> + Send + use<> {
        let (store, path) = (Arc::clone(&self.store), self.object(name));
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: version.if_match(),
            ..GetOptions::default()
        };
        async move {
            let get = async { store.get_opts(&path, options).await?.bytes().await };
            let Range { start, end } = range;
            let failed = |kind, reason: &str| io::Error::new(kind, format!("bytes {start} to {end}: {reason}"));
            match get.await {
                Ok(bytes) if bytes.len() as u64 == end - start => Ok(bytes),
                Ok(bytes) => {
                    let reason = format!("the answer has {} bytes", bytes.len());
                    Err(failed(io::ErrorKind::UnexpectedEof, &reason))
                }
                Err(object_store::Error::Precondition { .. }) => {
                    Err(failed(io::ErrorKind::InvalidData, "the object was replaced since it was opened"))
                }
                Err(object_store::Error::NotFound { .. }) => {
                    Err(failed(io::ErrorKind::NotFound, "the object was removed since it was opened"))
                }
                Err(err) => {
                    let err = io_error(&err);
                    Err(if is_abandoned(&err) { err } else { failed(err.kind(), &err.to_string()) })
                }
            }
        }
    }

    /// Creates an object; returns `false` if the name is taken.
    ///
    /// `bytes` must differ from what any other writer gives this object: a request whose response was lost is repeated,
    /// and the content then shows which writer created the object.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, FileError> {
        self.refuse_read_only(name, "create")?;
        if self.put(name, bytes, PutMode::Create)? {
            return Ok(true);
        }
        Ok(self.read(name)?.is_some_and(|(content, _)| content == bytes))
    }

    /// Replaces an object if it still has the given version; returns `false` if it has changed.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8], version: &Version) -> Result<bool, FileError> {
        self.refuse_read_only(name, "write")?;
        self.put(name, bytes, PutMode::Update(version.for_update()))
    }

    /// Writes an object, whether or not the name is taken.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.refuse_read_only(name, "write")?;
        self.put(name, bytes, PutMode::Overwrite)?;
        Ok(())
    }

    fn put(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<bool, FileError> {
        let (store, path) = (Arc::clone(&self.store), self.object(name));
        let payload = PutPayload::from(bytes.to_vec());
        let put =
            wait(async move { store.put_opts(&path, payload, PutOptions { mode, ..PutOptions::default() }).await });
        match put.map_err(FileError::at(self.url_of(name), "write"))? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(err) => Err(FileError::at(self.url_of(name), "write")(io_error(&err))),
        }
    }

    /// Removes an object; returns `false` if there was none.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, FileError> {
        self.refuse_read_only(name, "remove")?;
        let (store, path) = (Arc::clone(&self.store), self.object(name));
        let removed = wait(async move { store.delete(&path).await });
        match removed.map_err(FileError::at(self.url_of(name), "remove"))? {
            Ok(()) => Ok(true),
            Err(err) if is_absent(&err) => Ok(false),
            Err(err) => Err(FileError::at(self.url_of(name), "remove")(io_error(&err))),
        }
    }

    /// Gives an object another name: copies it on the server, then removes the old one.
    ///
    /// # Errors
    /// If a request fails.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.refuse_read_only(from, "rename")?;
        let (store, old, new) = (Arc::clone(&self.store), self.object(from), self.object(to));
        let renamed = wait(async move {
            store.copy(&old, &new).await?;
            store.delete(&old).await
        });
        let renamed = renamed.and_then(|renamed| renamed.map_err(|err| io_error(&err)));
        renamed.map_err(FileError::at(self.url_of(from), "rename"))
    }

    /// Fails for a web server, which can only be read.
    pub(crate) fn refuse_read_only(&self, name: &str, action: &'static str) -> Result<(), FileError> {
        if !self.location.is_read_only() {
            return Ok(());
        }
        let reason = "a web server can only be read; write to s3://, gs:// or az://";
        Err(FileError::at(self.url_of(name), action)(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, reason)))
    }
}

impl Object {
    /// `None` for an object whose name ends in a slash, as some tools create them for folders.
    fn of(meta: ObjectMeta) -> Option<Self> {
        Some(Self {
            name: meta.location.filename()?.to_owned(),
            len: meta.size,
            modified: meta.last_modified.into(),
            version: Version { e_tag: meta.e_tag, number: meta.version },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_of_an_open_object_is_reported() {
        let bucket = Bucket::of_memory();
        bucket.write("a.shard", b"bytes").unwrap();
        let read = || wait(bucket.range("a.shard", &Version::default(), 1..3)).unwrap();
        assert_eq!(read().unwrap(), "yt");
        assert!(bucket.remove("a.shard").unwrap());
        let error = read().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "bytes 1 to 3: the object was removed since it was opened");
    }

    #[test]
    fn weak_entity_tags_are_no_precondition() {
        let if_match = |tag: &str| Version { e_tag: Some(tag.into()), number: None }.if_match();
        assert_eq!(if_match("\"5e-1\"").as_deref(), Some("\"5e-1\""));
        assert_eq!(if_match("W/\"5e-1\""), None);
        assert_eq!(Version::default().if_match(), None);
    }

    #[test]
    fn weak_entity_tags_are_replaced_as_the_store_knows_them() {
        let e_tag = |tag: &str| Version { e_tag: Some(tag.into()), number: None }.for_update().e_tag;
        assert_eq!(e_tag("\"5e-1\"").as_deref(), Some("\"5e-1\""));
        assert_eq!(e_tag("W/\"5e-1\"").as_deref(), Some("\"5e-1\""));
        let numbered = Version { e_tag: None, number: Some("7".into()) }.for_update();
        assert_eq!((numbered.e_tag, numbered.version.as_deref()), (None, Some("7")));
    }
}
