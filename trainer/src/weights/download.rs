//! Weight files from the web: `http://`, `https://` and `hf://OWNER/REPOSITORY/FILE` (Hugging Face).
//!
//! A file is downloaded once and kept under a digest of its URL, next to its SHA-256, which every use compares. A copy
//! is not compared with the server again; remove it to get a newer one. `hf://OWNER/REPOSITORY@REVISION/FILE` names a
//! branch, tag or commit; `HF_ENDPOINT` replaces the server and `HF_TOKEN` is sent to it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hiend_cache::durable::{self, NewFile};
use hiend_cache::lock::FileLock;
use hiend_cache::{FileError, lookup, regular, user_cache};
use reqwest::{Response, Url};
use ring::digest::{Context, Digest, SHA256};
use thiserror::Error;

use crate::http::{client_for, one_line};
use crate::variable::{self, NotText};

/// Default server of `hf://`, unless `HF_ENDPOINT` names another.
const HUGGING_FACE: &str = "https://huggingface.co";
/// Timeout for making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time without receiving a byte after which a download is given up.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// Number of bytes hashed at a time.
const BLOCK_LEN: usize = 1 << 20;

/// Errors from downloading weights.
#[derive(Debug, Error)]
pub enum DownloadError {
    /// A URL that does not name a weight file.
    #[error("{url}: {reason}")]
    Url {
        /// URL as given.
        url: String,
        /// Reason, in one line.
        reason: String,
    },
    /// There is no folder for downloaded files.
    #[error("no folder for downloaded weights: set one of the variables XDG_CACHE_HOME and HOME")]
    NoFolder,
    /// A variable with a value that is not text.
    #[error(transparent)]
    NotText(#[from] NotText),
    /// A server that cannot be reached, or a connection that broke.
    #[error("{url}: download failed after {received} bytes: {reason}")]
    Transfer {
        /// URL that was requested.
        url: String,
        /// Bytes received.
        received: u64,
        /// Reasons, in one line.
        reason: String,
    },
    /// A response other than the file.
    #[error("{url}: the server answered {status}{hint}")]
    Status {
        /// URL that was requested.
        url: String,
        /// Status code and name of the response.
        status: String,
        /// Advice; may be empty.
        hint: &'static str,
    },
    /// A copy that differs from the downloaded file.
    #[error("{}: damaged, its SHA-256 is {found}, expected {expected}; remove it to download it again", path.display())]
    Damaged {
        /// Path of the downloaded copy.
        path: PathBuf,
        /// SHA-256 of the file, in hex.
        found: String,
        /// SHA-256 when it was downloaded, in hex.
        expected: String,
    },
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system refused a thread or a socket.
    #[error("cannot start a download")]
    System(#[source] io::Error),
}

/// A weight file in the cache of downloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Path of the downloaded copy.
    pub path: PathBuf,
    /// SHA-256 of the copy, in hex.
    pub sha256: String,
    /// Size in bytes.
    pub num_bytes: u64,
    /// True if a copy already existed.
    pub was_cached: bool,
}

/// Returns true if `path` has the form of a URL, which [`Downloads::fetch`] then accepts or rejects.
#[must_use]
pub fn is_url(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains("://"))
}

/// Cache of downloaded weight files, and the settings of requests.
#[derive(Clone, Debug)]
pub struct Downloads {
    folder: PathBuf,
    /// Server of `hf://` without a slash at its end.
    hugging_face: String,
    /// Token for the server of `hf://`.
    token: Option<String>,
}

impl Downloads {
    /// Returns the folder `hiend/weights` in `XDG_CACHE_HOME` or `~/.cache`, with the server and token from
    /// `HF_ENDPOINT` and `HF_TOKEN`.
    ///
    /// # Errors
    /// If no variable names a folder, or server or token are not text.
    pub fn of_environment() -> Result<Self, DownloadError> {
        let folder = user_cache::folder("weights").ok_or(DownloadError::NoFolder)?;
        Ok(Self::of_variables(folder, variable::text)?)
    }

    fn of_variables(folder: PathBuf, text: impl Fn(&str) -> Result<Option<String>, NotText>) -> Result<Self, NotText> {
        let hugging_face = text("HF_ENDPOINT")?.unwrap_or_else(|| HUGGING_FACE.to_owned());
        Ok(Self::new(folder, &hugging_face, text("HF_TOKEN")?))
    }

    fn new(folder: PathBuf, hugging_face: &str, token: Option<String>) -> Self {
        Self { folder, hugging_face: hugging_face.trim_end_matches('/').to_owned(), token }
    }

    /// Checks that a URL names a weight file, without a request.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(&self, url: &str) -> Result<(), DownloadError> {
        self.resolve(url).map(drop)
    }

    /// Returns the copy of a weight file, downloading it first if necessary.
    ///
    /// Processes that need the same file wait for the first of them.
    ///
    /// # Errors
    /// If the URL names no weight file, the download fails, or the copy is damaged.
    pub fn fetch(&self, url: &str) -> Result<Downloaded, DownloadError> {
        let (request, name) = self.resolve(url)?;
        let digest = blake3::hash(request.as_str().as_bytes()).to_hex();
        let folder = self.folder.join(&digest[..16]);
        durable::create_dir_all(&folder)?;
        let _lock = FileLock::exclusive(&folder.join("lock"))?;
        let path = folder.join(&name);
        let sum_path = folder.join(format!("{name}.sha256"));
        // The sum is written last, so that a file without one is not whole.
        if lookup::exists(&path)? && lookup::exists(&sum_path)? {
            let expected = regular::read_to_string(&sum_path).map_err(FileError::at(&sum_path, "read"))?;
            let expected = expected.split_whitespace().next().unwrap_or_default().to_owned();
            let (found, num_bytes) = sha256_of(&path)?;
            if found != expected {
                return Err(DownloadError::Damaged { path, found, expected });
            }
            return Ok(Downloaded { path, sha256: found, num_bytes, was_cached: true });
        }
        let (sha256, num_bytes) = self.download(url, request, &path)?;
        durable::write(&sum_path, format!("{sha256}  {name}\n").as_bytes())?;
        Ok(Downloaded { path, sha256, num_bytes, was_cached: false })
    }

    /// Resolves a URL to the URL to request and the name of the file.
    fn resolve(&self, url: &str) -> Result<(Url, String), DownloadError> {
        let refuse = |reason: &str| DownloadError::Url { url: url.to_owned(), reason: reason.to_owned() };
        let request = match url.split_once("://") {
            Some(("http" | "https", _)) => url.to_owned(),
            Some(("hf", path)) => {
                let expected = || refuse("expected hf://OWNER/REPOSITORY/FILE");
                let mut parts = path.splitn(3, '/').filter(|part| !part.is_empty());
                let (Some(owner), Some(repository), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
                    return Err(expected());
                };
                let (repository, revision) = repository.split_once('@').unwrap_or((repository, "main"));
                format!("{}/{owner}/{repository}/resolve/{revision}/{file}", self.hugging_face)
            }
            _ => return Err(refuse("weights are downloaded from http://, https:// and hf:// only")),
        };
        let request = Url::parse(&request).map_err(|error| refuse(&error.to_string()))?;
        let name = request.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default().to_owned();
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if !["pth", "pt", "bin", "safetensors"].contains(&ending) || name.starts_with('.') {
            return Err(refuse("expected a file that ends in .pth, .pt, .bin or .safetensors"));
        }
        Ok((request, name))
    }

    /// Downloads a file to `path`; returns SHA-256 and size.
    fn download(&self, url: &str, request: Url, path: &Path) -> Result<(String, u64), DownloadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(DownloadError::System)?.block_on(async {
            let broken = |received: u64| {
                move |error: reqwest::Error| DownloadError::Transfer {
                    url: url.to_owned(),
                    received,
                    reason: one_line(&error),
                }
            };
            let mut response = self.request(request).await.map_err(broken(0))?;
            if !response.status().is_success() {
                let status = response.status();
                let hint = match status.as_u16() {
                    401 | 403 => "; HF_TOKEN is sent with hf:// URLs",
                    _ => "",
                };
                return Err(DownloadError::Status { url: url.to_owned(), status: status.to_string(), hint });
            }
            let mut file = NewFile::create(path)?;
            let (mut hasher, mut received) = (Context::new(&SHA256), 0);
            while let Some(bytes) = response.chunk().await.map_err(broken(received))? {
                hasher.update(&bytes);
                file.write_all(&bytes).map_err(FileError::at(path, "write"))?;
                received += bytes.len() as u64;
            }
            file.commit()?;
            Ok((hex(hasher.finish()), received))
        })
    }

    async fn request(&self, url: Url) -> reqwest::Result<Response> {
        let client = client_for(&url).connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
        let of_hugging_face = url.as_str().starts_with(&format!("{}/", self.hugging_face));
        let request = client.build()?.get(url);
        match &self.token {
            Some(token) if of_hugging_face => request.bearer_auth(token),
            _ => request,
        }
        .send()
        .await
    }
}

/// SHA-256 in hex, and size, of a file.
fn sha256_of(path: &Path) -> Result<(String, u64), FileError> {
    let read = || {
        let mut file = regular::open(path)?;
        let (mut hasher, mut block, mut num_bytes) = (Context::new(&SHA256), vec![0; BLOCK_LEN], 0);
        loop {
            match io::Read::read(&mut file, &mut block)? {
                0 => return Ok((hex(hasher.finish()), num_bytes)),
                len => {
                    hasher.update(&block[..len]);
                    num_bytes += len as u64;
                }
            }
        }
    };
    read().map_err(FileError::at(path, "read"))
}

fn hex(digest: Digest) -> String {
    digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// A server on loopback that answers by path and records the heads of requests.
    struct Server {
        url: String,
        heads: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let heads: Arc<Mutex<Vec<String>>> = Arc::default();
            let recorded = Arc::clone(&heads);
            // Ends with the process; connections of later tests go to other ports.
            std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &recorded)));
            Self { url, heads }
        }

        fn downloads(&self, folder: &Path) -> Downloads {
            Downloads::new(folder.to_owned(), &format!("{}/hf/", self.url), Some("secret".to_owned()))
        }

        fn num_requests(&self) -> usize {
            self.heads.lock().unwrap().len()
        }
    }

    fn answer(mut stream: TcpStream, heads: &Mutex<Vec<String>>) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let head: Vec<String> = lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        let path = head[0].split(' ').nth(1).unwrap().to_owned();
        heads.lock().unwrap().push(head.join("\n"));
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nweights";
        let answer = match path.as_str() {
            "/model.pth" | "/hf/owner/repo/resolve/main/a/model.safetensors" | "/hf/o/r/resolve/v2/m.pt" => whole,
            "/moved.pth" => {
                "HTTP/1.1 302 Found\r\nLocation: /model.pth\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            "/cut.pth" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nweights",
            "/private.pth" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).unwrap();
    }

    /// SHA-256 of `weights`.
    const SUM: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

    #[test]
    fn a_file_is_downloaded_once() {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        let downloads = server.downloads(folder.path());
        for path in ["model.pth", "moved.pth"] {
            let url = format!("{}/{path}", server.url);
            let first = downloads.fetch(&url).unwrap();
            assert_eq!((first.num_bytes, first.was_cached), (7, false));
            assert_eq!(std::fs::read(&first.path).unwrap(), b"weights");
            assert_eq!(first.path.file_name().unwrap(), path);
            let num_requests = server.num_requests();
            let again = downloads.fetch(&url).unwrap();
            assert_eq!(again, Downloaded { was_cached: true, ..first });
            assert_eq!(server.num_requests(), num_requests);
        }
    }

    #[test]
    fn hugging_face_files_are_requested_by_revision_with_the_token() {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        let downloads = server.downloads(folder.path());
        let file = downloads.fetch("hf://owner/repo/a/model.safetensors").unwrap();
        assert_eq!(file.path.file_name().unwrap(), "model.safetensors");
        downloads.fetch("hf://o/r@v2/m.pt").unwrap();
        downloads.fetch(&format!("{}/model.pth", server.url)).unwrap();
        let heads = server.heads.lock().unwrap();
        let sent = |head: &String| head.to_lowercase().contains("authorization: bearer secret");
        assert_eq!(heads.iter().map(sent).collect::<Vec<_>>(), [true, true, false]);
    }

    /// Without the variable, a private model would be requested without its token, or from the public server.
    #[test]
    fn a_server_or_token_that_is_not_text_is_refused() {
        for refused in ["HF_ENDPOINT", "HF_TOKEN"] {
            let text = |name: &str| if name == refused { Err(NotText { name: name.to_owned() }) } else { Ok(None) };
            let error = Downloads::of_variables(PathBuf::from("unused"), text).unwrap_err();
            assert_eq!(error.name, refused);
        }
    }

    #[test]
    fn failed_downloads_leave_no_file() {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        let downloads = server.downloads(folder.path());
        let check = |url: &str, expected: &str| {
            let message = downloads.fetch(url).unwrap_err().to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        };
        check(&format!("{}/cut.pth", server.url), "cut.pth: download failed after");
        check(&format!("{}/none.pth", server.url), "none.pth: the server answered 404 Not Found");
        check(&format!("{}/private.pth", server.url), "403 Forbidden; HF_TOKEN is sent with hf:// URLs");
        // A port that no other test is given.
        check("http://127.0.0.1:1/model.pth", "model.pth: download failed after 0 bytes: ");
        for path in walk(folder.path()) {
            assert!(path.ends_with("lock"), "{}", path.display());
        }
    }

    /// Files below a folder.
    fn walk(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn a_damaged_copy_is_found() {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        let downloads = server.downloads(folder.path());
        let url = format!("{}/model.pth", server.url);
        let file = downloads.fetch(&url).unwrap();
        assert_eq!(file.sha256, SUM);
        std::fs::write(&file.path, b"weightz").unwrap();
        let message = downloads.fetch(&url).unwrap_err().to_string();
        assert!(message.contains("model.pth: damaged, its SHA-256 is"), "{message}");
        std::fs::remove_file(&file.path).unwrap();
        assert!(!downloads.fetch(&url).unwrap().was_cached);
    }

    #[test]
    fn urls_that_name_no_weight_file_are_refused() {
        let downloads = Downloads::new(PathBuf::from("unused"), HUGGING_FACE, None);
        let check = |url: &str, expected: &str| {
            let message = downloads.fetch(url).unwrap_err().to_string();
            assert_eq!(message, format!("{url}: {expected}"));
        };
        check("s3://bucket/model.pth", "weights are downloaded from http://, https:// and hf:// only");
        check("hf://owner/repo", "expected hf://OWNER/REPOSITORY/FILE");
        let ending = "expected a file that ends in .pth, .pt, .bin or .safetensors";
        check("https://example.org/model", ending);
        check("hf://owner/repo/notes.txt", ending);
        assert!(is_url(Path::new("hf://a/b/c.pth")) && !is_url(Path::new("runs/first")));
    }
}
