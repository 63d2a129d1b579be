//! PostgreSQL.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs, io,
    ops::{Deref, DerefMut},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rustix::process::Signal;

use crate::{
    port,
    server::{Recipe, Server, not_installed},
    watchdog::{Guarded, User},
};

/// Tests of many engines share one server.
const CONNECTIONS: &str = "300";
/// A server that is frozen or cut off must not hold up what asks it in passing.
const PATIENCE_SECONDS: &str = "20";

/// A PostgreSQL of this test process's own. Its superuser is `jangbu`, without a password, and it keeps its promises: `fsync` is on.
pub struct Postgres(Server);

/// The PostgreSQL that a whole test process shares.
pub struct SharedPostgres {
    url: String,
    /// None where `JANGBU_TEST_POSTGRES` names the server.
    _own: Option<Postgres>,
}

/// An empty database of a test's own. Dropped, it is removed with whatever is still connected to it.
pub struct Database {
    name: String,
    url: String,
    server: String,
}

impl Postgres {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with settings of `postgresql.conf`, such as `("synchronous_commit", "off")`. `ALTER SYSTEM` can change all of them.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_with_files(settings, &[])
    }

    /// Starts one with settings and with files in its data directory that only it can read: `server.crt` and `server.key` for TLS, or
    /// another `pg_hba.conf`.
    pub fn start_with_files(settings: &[(&str, &str)], files: &[(&str, &str)]) -> Self {
        Installed::find().start(settings, files, |installed, data| copy(&installed.template(), data))
    }

    /// Starts another one that follows this one, under the name that `synchronous_standby_names` calls it by. It answers queries; with
    /// `SELECT pg_promote()` it takes over.
    #[must_use]
    pub fn standby(&self, name: &str) -> Self {
        let source = format!("host=127.0.0.1 port={} user=jangbu application_name={name}", self.port());
        Installed::find().start(&[], &[], |installed, data| {
            let mut backup = installed.command("pg_basebackup");
            backup
                .args([
                    "--write-recovery-conf",
                    "--wal-method=stream",
                    "--checkpoint=fast",
                    "--no-sync",
                    "-d",
                    &source,
                    "-D",
                ])
                .arg(data);
            run(&mut backup).map(drop)
        })
    }

    /// The one that this test process shares: the one that `JANGBU_TEST_POSTGRES` names by the URL of a superuser, or one of its own,
    /// which ends with the process. It is not to be broken; databases of it are.
    pub fn shared() -> &'static SharedPostgres {
        static SHARED: OnceLock<SharedPostgres> = OnceLock::new();
        SHARED.get_or_init(|| {
            if let Some(url) = named_by("JANGBU_TEST_POSTGRES") {
                return SharedPostgres { url, _own: None };
            }
            let own = Self::start();
            SharedPostgres {
                url: own.url(),
                _own: Some(own),
            }
        })
    }

    /// `postgres://jangbu@127.0.0.1:PORT/postgres`
    pub fn url(&self) -> String {
        format!("postgres://jangbu@127.0.0.1:{}/postgres", self.port())
    }

    /// A fresh, empty database.
    pub fn database(&self) -> Database {
        Database::create(&self.url())
    }

    /// What `psql` prints for this, one line per row and `|` between columns.
    pub fn sql(&self, statements: &str) -> String {
        must_answer(&self.url(), statements)
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.scratch().join("data")
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

impl SharedPostgres {
    /// The URL of its superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A fresh, empty database.
    pub fn database(&self) -> Database {
        Database::create(&self.url)
    }

    /// What `psql` prints for this, one line per row and `|` between columns.
    pub fn sql(&self, statements: &str) -> String {
        must_answer(&self.url, statements)
    }
}

impl Database {
    fn create(server: &str) -> Self {
        static CREATED: AtomicU64 = AtomicU64::new(0);
        // A server that several test processes share, and that outlives them, must not see a name twice.
        let time = SystemTime::UNIX_EPOCH.elapsed().map(|time| time.as_micros()).unwrap_or_default();
        let name = format!("jangbu_test_{time:x}_{}_{}", process::id(), CREATED.fetch_add(1, Ordering::Relaxed));
        must_answer(server, &format!("CREATE DATABASE {name}"));
        Self {
            url: with_database(server, &name),
            name,
            server: server.to_owned(),
        }
    }

    /// Its name, for a statement; it needs no quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of the superuser in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same database at another address, such as a proxy's.
    pub fn url_at(&self, address: std::net::SocketAddr) -> String {
        with_address(&self.url, address)
    }

    /// What `psql` prints for this, one line per row and `|` between columns.
    pub fn sql(&self, statements: &str) -> String {
        must_answer(&self.url, statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A test may have killed the server: then the database goes with it.
        let _ = psql(&self.server, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// PostgreSQL on this machine.
struct Installed {
    binaries: PathBuf,
    /// PostgreSQL refuses to be root.
    user: Option<User>,
}

impl Installed {
    fn find() -> Self {
        let binaries = binaries().unwrap_or_else(|| not_installed("PostgreSQL"));
        let user = rustix::process::geteuid()
            .is_root()
            .then(|| user("postgres").unwrap_or_else(|| not_installed("PostgreSQL (its user)")));
        Self { binaries, user }
    }

    /// Starts a server on the data directory that this makes.
    fn start(&self, settings: &[(&str, &str)], files: &[(&str, &str)], make: impl Fn(&Self, &Path) -> io::Result<()>) -> Postgres {
        Postgres(Server::started(|| {
            let recipe = Recipe {
                name: "postgres",
                command: vec![],
                user: self.user,
                quickly: "QUIT",
                orderly: Signal::INT,
                ready,
            };
            let mut server = Server::prepare(port::free(), recipe);
            let data = server.scratch().join("data");
            let made = make(self, &data).and_then(|()| self.configure(&server, settings, files));
            made.unwrap_or_else(|error| panic!("no data directory for PostgreSQL in {}: {error}", data.display()));
            server.set_command(vec![self.binaries.join("postgres").into(), "-D".into(), data.into()]);
            server
        }))
    }

    /// A program of PostgreSQL's, as the user that it runs as.
    fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.binaries.join(program));
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn configure(&self, server: &Server, settings: &[(&str, &str)], files: &[(&str, &str)]) -> io::Result<()> {
        let data = server.scratch().join("data");
        let (port, scratch) = (server.port().to_string(), server.scratch().to_string_lossy());
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &scratch),
            ("max_connections", CONNECTIONS),
            // In the data directory, which is removed whatever happens.
            ("dynamic_shared_memory_type", "mmap"),
        ];
        let configuration = data.join("postgresql.conf");
        let mut text = fs::read_to_string(&configuration)?;
        for (name, value) in ours.iter().chain(settings) {
            // The last one counts.
            writeln!(text, "{name} = '{}'", value.replace('\'', "''")).map_err(io::Error::other)?;
        }
        fs::write(&configuration, text)?;
        for (name, content) in files {
            let file = data.join(name);
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            if let Some(user) = self.user {
                chown(&file, Some(user.uid), Some(user.gid))?;
            }
        }
        Ok(())
    }

    /// A data directory as `initdb` leaves it, made once on this machine and copied for each server.
    fn template(&self) -> PathBuf {
        let version = run(self.command("initdb").arg("--version")).unwrap_or_else(|error| panic!("initdb: {error}"));
        let version = version.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
        let template = cache().join(format!("postgres-{version}{}", if self.user.is_some() { "" } else { "-as-user" }));
        if !template.exists() {
            self.make_template(&template)
                .unwrap_or_else(|error| panic!("no data directory for PostgreSQL in {}: {error}", template.display()));
        }
        template
    }

    fn make_template(&self, template: &Path) -> io::Result<()> {
        // The cache may be where PostgreSQL's user may not go.
        let guarded = Guarded::new("initdb", "KILL", self.user)?;
        let data = guarded.scratch().join("data");
        let mut initdb = self.command("initdb");
        initdb
            .args([
                "-U",
                "jangbu",
                "--auth=trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-instructions",
                "-D",
            ])
            .arg(&data);
        run(&mut initdb)?;
        let cache = cache();
        fs::create_dir_all(&cache)?;
        let new = tempfile::Builder::new().prefix("postgres-new-").tempdir_in(&cache)?;
        copy(&data, &new.path().join("data"))?;
        // Renamed when all is there. Another test process may have been quicker, and its copy is as good.
        match fs::rename(new.path().join("data"), template) {
            Err(_) if template.exists() => Ok(()),
            done => done,
        }
    }
}

/// The postmaster says in its file when it lets clients in; until then it may be the file of the one that was killed.
fn ready(server: &Server) -> bool {
    let state = fs::read_to_string(server.scratch().join("data/postmaster.pid")).unwrap_or_default();
    let mut lines = state.lines();
    lines.next() == Some(server.pid().to_string().as_str()) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

/// Where Debian has the newest version, or where `PATH` says.
fn binaries() -> Option<PathBuf> {
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let debian = versions
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(version)
        .map(|path| path.join("bin"));
    debian.or_else(|| env::split_paths(&env::var_os("PATH")?).find(|path| path.join("initdb").exists() && path.join("postgres").exists()))
}

fn user(name: &str) -> Option<User> {
    let id = |what| run(Command::new("id").args([what, name])).ok()?.trim().parse().ok();
    Some(User {
        uid: id("-u")?,
        gid: id("-g")?,
    })
}

/// A copy with the owners of the files, and without writing them where the file system can share them.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}

/// What lasts beside the clone, as in `tools/setup.sh`.
pub(crate) fn cache() -> PathBuf {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache/jangbu"));
    env::var_os("JANGBU_CACHE")
        .filter(|cache| !cache.is_empty())
        .map(PathBuf::from)
        .or_else(home)
        .expect("HOME or JANGBU_CACHE is set")
}

/// A server that the tests are given by a variable.
pub(crate) fn named_by(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|url| !url.is_empty())
}

fn must_answer(url: &str, statements: &str) -> String {
    psql(url, statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
}

fn psql(url: &str, statements: &str) -> io::Result<String> {
    let program = binaries()
        .map(|binaries| binaries.join("psql"))
        .filter(|psql| psql.exists())
        .unwrap_or_else(|| "psql".into());
    let mut command = Command::new("timeout");
    command.args([OsString::from("-s"), "KILL".into(), PATIENCE_SECONDS.into(), program.into()]);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statements]);
    command
        .env("PGCONNECT_TIMEOUT", PATIENCE_SECONDS)
        .env_remove("PGOPTIONS")
        .stdin(Stdio::null());
    run(&mut command)
}

/// What a command prints, or why it failed.
fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Where the address in a URL begins and where it ends.
fn authority(url: &str) -> (usize, usize) {
    let start = url.find("://").map_or(0, |scheme| scheme + 3);
    (start, url[start..].find(['/', '?']).map_or(url.len(), |end| start + end))
}

/// The same URL with another database.
fn with_database(url: &str, name: &str) -> String {
    let (_, end) = authority(url);
    let query = url[end..].find('?').map_or("", |query| &url[end + query..]);
    format!("{}/{name}{query}", &url[..end])
}

/// The same URL with another host and port.
fn with_address(url: &str, address: std::net::SocketAddr) -> String {
    let (start, end) = authority(url);
    let host = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    format!("{}{address}{}", &url[..host], &url[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_all_but_what_is_replaced() {
        assert_eq!(
            with_database("postgres://jangbu@127.0.0.1:5432/postgres", "a"),
            "postgres://jangbu@127.0.0.1:5432/a"
        );
        assert_eq!(with_database("postgres://u:p%2F@host", "a"), "postgres://u:p%2F@host/a");
        assert_eq!(
            with_database("postgres://host?sslmode=require", "a"),
            "postgres://host/a?sslmode=require"
        );
        assert_eq!(
            with_database("postgres://host/b?sslmode=require", "a"),
            "postgres://host/a?sslmode=require"
        );
        let proxy = port::local(7);
        assert_eq!(
            with_address("postgres://u:p@host:1/b?sslmode=require", proxy),
            "postgres://u:p@127.0.0.1:7/b?sslmode=require"
        );
        assert_eq!(with_address("postgres://host", proxy), "postgres://127.0.0.1:7");
    }
}
