//! Where Redis is, and how it is reached.

use std::{fmt, fs, io, path::Path, str::FromStr, sync::Arc};

use redis::{ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const PLAIN: &str = "redis://";
const TLS: &str = "rediss://";

/// The parameter that names a file of certificates to trust, as for PostgreSQL.
const ROOTS: &str = "sslrootcert=";

/// `redis://user:password@host:port/database`, or `rediss://` for TLS, where `?sslrootcert=FILE` names the certificates to trust instead of
/// the system's. Its `Display` names it without the password.
#[derive(Clone)]
pub struct Address {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    pub(crate) hello: RedisConnectionInfo,
}

/// Why a text is no address of Redis. It repeats nothing of the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write redis://user:password@host:port/database, or rediss:// for TLS")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |reason: &str| AddressError(reason.to_owned());
        let (rest, encrypted) = match (text.strip_prefix(PLAIN), text.strip_prefix(TLS)) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return Err(wrong("it has another scheme")),
        };
        let (rest, roots) = match rest.split_once('?') {
            Some((rest, parameter)) if encrypted => match parameter.strip_prefix(ROOTS) {
                Some(file) => (rest, Some(Path::new(file))),
                None => return Err(wrong("the one parameter that there may be is sslrootcert=FILE")),
            },
            Some(_) => return Err(wrong("without TLS it has no parameters")),
            None => (rest, None),
        };
        if rest.contains('#') {
            return Err(wrong("fragments mean nothing"));
        }
        let tls = if encrypted {
            Some(Arc::new(trusting(roots).map_err(AddressError)?))
        } else {
            None
        };
        // TLS is spoken here: the client only reads the rest of the address.
        let info = format!("{PLAIN}{rest}").into_connection_info();
        let info = info.map_err(|error| wrong(error.detail().unwrap_or("it cannot be read")))?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(wrong("it names no host"));
        };
        let hello = info.redis_settings().clone();
        Ok(Self {
            host: host.clone(),
            port: *port,
            tls,
            hello: hello.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { TLS } else { PLAIN };
        write!(f, "{scheme}{}:{}/{}", self.host, self.port, self.hello.db())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Address {
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// Trusts the certificates of this file, else those of the system.
fn trusting(file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        let unreadable = |error: &dyn fmt::Display| format!("{} cannot be read: {error}", file.display());
        let text = fs::read(file).map_err(|error| unreadable(&error))?;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err("there is no certificate to trust: name a file of them with sslrootcert".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (text, shown) in [
            ("redis://h", "redis://h:6379/0"),
            ("redis://:secret@h:1234/5", "redis://h:1234/5"),
            ("redis://[::1]:7000", "redis://::1:7000/0"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.to_string(), format!("{address:?}")), (shown.to_owned(), shown.to_owned()));
        }
        let address: Address = "redis://shop:s%40cret@h".parse().expect("an address");
        assert_eq!((address.hello.username(), address.hello.password()), (Some("shop"), Some("s@cret")));
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in [
            "",
            "http://:secret@h",
            "redis://",
            "redis://:secret@h/x",
            "redis://:secret@h:99999",
            "redis://:secret@h?protocol=2",
            "redis://:secret@h?sslrootcert=/etc/ca.pem",
            "rediss://:secret@h?sslrootcert=/nowhere/at/all.pem",
            "rediss://:secret@h?ca=/etc/ca.pem",
            "rediss://:secret@h#insecure",
            "redis://:secret@0.0.0.0",
        ] {
            let refused = text.parse::<Address>().expect_err(text).to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
