//! libpq's password file: `host:port:database:user:password` in each line, `*` for any, `\` before a `:` or `\`.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use tokio_postgres::{Config, config::Host};

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The password for a connection, if the file has one. A file that others can read is not used, as in libpq.
pub(super) fn password(file: &Path, config: &Config) -> Option<Vec<u8>> {
    let metadata = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    if metadata.mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "the password file is not used, as others can read it: chmod 600");
        return None;
    }
    if metadata.len() > MAX_BYTES {
        tracing::warn!(file = %file.display(), "the password file is not used, as it is too large");
        return None;
    }
    find(&fs::read(file).ok()?, config)
}

fn find(file: &[u8], config: &Config) -> Option<Vec<u8>> {
    // One password for all hosts: tokio-postgres has no more.
    let host = match config.get_hosts().first()? {
        Host::Tcp(host) => host.clone(),
        Host::Unix(folder) if folder == Path::new("/var/run/postgresql") || folder == Path::new("/tmp") => {
            "localhost".to_owned()
        }
        Host::Unix(folder) => folder.to_str()?.to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    let user = config.get_user()?;
    let wanted = [host.as_str(), &port, config.get_dbname().unwrap_or(user), user];
    file.split(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .filter_map(|line| fields(line.strip_suffix(b"\r").unwrap_or(line)))
        .find(|(names, _)| names.iter().zip(wanted).all(|(name, wanted)| name == b"*" || name == wanted.as_bytes()))
        .map(|(_, password)| password)
        .filter(|password| !password.is_empty())
}

/// The four names of a line, and its password.
fn fields(line: &[u8]) -> Option<([Vec<u8>; 4], Vec<u8>)> {
    let mut all = vec![Vec::new()];
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => all.last_mut()?.extend(bytes.next()),
            b':' if all.len() < 5 => all.push(Vec::new()),
            other => all.last_mut()?.push(other),
        }
    }
    let password = (all.len() == 5).then(|| all.pop())??;
    Some((all.try_into().ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_gives_the_password() {
        let file = b"# a comment\nother:5432:db:me:no\n127.0.0.1:5432:db:me:a\\:b\\\\c:d\r\n*:*:*:me:any\nbroken\n";
        let config = |host: &str, user: &str| {
            let mut config = Config::new();
            config.host(host).user(user).dbname("db");
            config
        };
        assert_eq!(find(file, &config("127.0.0.1", "me")).as_deref(), Some(b"a:b\\c:d".as_slice()));
        assert_eq!(find(file, &config("elsewhere", "me")).as_deref(), Some(b"any".as_slice()));
        assert_eq!(find(file, &config("127.0.0.1", "you")), None);
        let socket = b"localhost:*:*:*:socket\n";
        assert_eq!(find(socket, &config("/var/run/postgresql", "me")).as_deref(), Some(b"socket".as_slice()));
    }
}
