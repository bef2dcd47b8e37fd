//! An S3-compatible server on this machine.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Version of the server that the tests were written against; it has conditional writes.
const PACKAGE: &str = "moto[s3,server]==5.2.5";
/// Python program that starts the server on a free port, prints the port, and ends when its standard input closes.
const PROGRAM: &str = "\
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
";

/// Header that makes a request come from the bucket's owner; moto does not check signatures.
pub(crate) const AUTHORIZATION: &str = "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
    SignedHeaders=host, Signature=0\r\n";

/// Bucket of all tests; each test uses its own prefix.
pub(crate) const BUCKET: &str = "bucket";

/// A running server, which ends when this value is dropped or the tests are killed.
pub(crate) struct Server {
    child: Child,
    /// Address with the lifetime of the process, for tests on other threads.
    address: &'static str,
}

impl Server {
    /// Installs the server if necessary, and starts it with an empty bucket.
    pub(crate) fn start() -> Result<Self, String> {
        let python = environment()?;
        let log =
            File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto.log")).map_err(|err| err.to_string())?;
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|err| format!("cannot start moto: {err}"))?;
        let mut port = String::new();
        let stdout = child.stdout.take().ok_or("no standard output")?;
        BufReader::new(stdout).read_line(&mut port).map_err(|err| err.to_string())?;
        let port: u16 =
            port.trim().parse().map_err(|err| format!("moto did not start ({err}); see moto.log in target/tmp"))?;
        let address: &'static str = Box::leak(format!("127.0.0.1:{port}").into_boxed_str());
        let server = Self { child, address };
        let (status, _) = request(address, "PUT", &format!("/{BUCKET}"), b"");
        if status == 200 { Ok(server) } else { Err(format!("cannot create a bucket: status {status}")) }
    }

    /// Address, as `host:port`.
    pub(crate) fn address(&self) -> &'static str {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Path of the Python interpreter that has moto; installs moto into a virtual environment if necessary.
fn environment() -> Result<PathBuf, String> {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(tmp).map_err(|err| err.to_string())?;
    // Another test program may install it at this moment.
    let lock = File::create(tmp.join("moto.lock")).map_err(|err| err.to_string())?;
    lock.lock().map_err(|err| err.to_string())?;
    let (folder, done) = (tmp.join("moto"), tmp.join("moto").join("complete"));
    let python = folder.join("bin").join("python3");
    if std::fs::read_to_string(&done).is_ok_and(|package| package == PACKAGE) {
        return Ok(python);
    }
    let system = std::env::var_os("HIEND_PYTHON").unwrap_or_else(|| "python3".into());
    run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]))?;
    std::fs::write(done, PACKAGE).map_err(|err| err.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|err| format!("cannot run {command:?}: {err}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{command:?} failed: {}", text.lines().last().unwrap_or_default()))
}

/// Makes a request and returns status and body.
pub(crate) fn request(address: &str, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n{AUTHORIZATION}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, answer.split_off(end))
}
