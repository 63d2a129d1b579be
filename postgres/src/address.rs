//! Where a database is, and how it is reached.

use std::{fmt, fs, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

/// How long a server has to accept a connection, unless the address says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long sent data may stay unacknowledged before the connection counts as lost.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A database's address: a URL as libpq writes it, `postgres://user:password@host:port/database?sslmode=require`.
///
/// Several hosts may be named; the one that may be written to is used. `sslmode` is `disable`, `prefer`, `require` (both encrypt without
/// looking at the certificate, as in libpq), or `verify-full`; `sslrootcert` names a file of certificates to trust instead of the machine's.
/// <https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-CONNSTRING>
#[derive(Clone)]
pub struct Address {
    config: Config,
    verify: bool,
    roots: Option<PathBuf>,
}

/// Why a text is no address of a database. It never repeats the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(AddressError("the address of a database begins with postgres://".into()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut verify, mut roots, mut kept) = (false, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                // What tokio-postgres does not know.
                Some(("sslmode", "verify-full")) => {
                    verify = true;
                    kept.push("sslmode=require");
                }
                Some(("sslmode", "verify-ca" | "allow")) => {
                    return Err(AddressError("sslmode is disable, prefer, require or verify-full".into()));
                }
                Some(("sslrootcert", file)) => roots = Some(PathBuf::from(unescaped(file)?)),
                _ => kept.push(pair),
            }
        }
        let rest = if kept.is_empty() {
            String::new()
        } else {
            format!("?{}", kept.join("&"))
        };
        // The parser's own words may repeat a part of the address.
        let unreadable = |_| AddressError("the address of the database cannot be read".into());
        let mut config: Config = format!("{base}{rest}").parse().map_err(unreadable)?;
        if config.get_hosts().is_empty() {
            return Err(AddressError("the address of the database names no host".into()));
        }
        if config.get_application_name().is_none() {
            config.application_name("jangbu");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        Ok(Self { config, verify, roots })
    }
}

/// Percent-encoding, RFC 3986 section 2.1.
fn unescaped(text: &str) -> Result<String, AddressError> {
    let wrong = || AddressError("sslrootcert is not well encoded".into());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after
                .get(..2)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .ok_or_else(wrong)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// User, hosts and database: no password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.config.get_user().unwrap_or_default())?;
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
            let ports = self.config.get_ports();
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.config.get_dbname().or(self.config.get_user()).unwrap_or_default())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Address {
    /// The same database by another application name, as `pg_stat_activity` shows it.
    #[must_use]
    pub fn named(mut self, application: &str) -> Self {
        self.config.application_name(application);
        self
    }

    /// For whoever writes: of several hosts the one that may be written to.
    #[must_use]
    pub fn for_writing(mut self) -> Self {
        self.config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        self
    }

    /// Whether the other names a database of the same server and name, by whatever role.
    pub fn is_same_database(&self, other: &Self) -> bool {
        let place = |address: &Self| {
            let text = address.to_string();
            text.split_once('@').map(|(_, place)| place.to_owned())
        };
        place(self) == place(other)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.config.get_ssl_mode() != SslMode::Disable
    }

    /// How certificates are judged.
    pub(crate) fn tls(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        if !self.verify {
            let unverified = Arc::new(unverified::Encrypted(provider));
            return Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(unverified)
                .with_no_client_auth());
        }
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.roots {
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
            return Err("there is no certificate to trust: name a file of them with sslrootcert".into());
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// `sslmode=require` encrypts, and does not ask whom it speaks to.
mod unverified {
    use std::sync::Arc;

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct Encrypted(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for Encrypted {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let address: Address = "postgres://shop:s3cret@db1:5433,db2/jangbu?sslmode=require"
            .parse()
            .expect("an address");
        assert_eq!(format!("{address:?}"), "postgres://shop@db1:5433,db2:5432/jangbu");
        assert!(address.is_encrypted() && !address.verify);
        let address: Address = "postgresql://shop@db/?sslmode=verify-full&sslrootcert=/etc/a%20b.pem"
            .parse()
            .expect("an address");
        assert_eq!((address.verify, address.roots), (true, Some(PathBuf::from("/etc/a b.pem"))));
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for wrong in [
            "",
            "mysql://shop:s3cret@db/jangbu",
            "postgres:///jangbu",
            "postgres://shop:s3cret@db:port/jangbu",
            "postgres://shop:s3cret@db/jangbu?sslmode=verify-ca",
            "postgres://shop:s3cret@db/jangbu?s3cret=1",
            "postgres://shop:s3cret@db/jangbu?sslmode=verify-full&sslrootcert=%s3cret",
        ] {
            let line = wrong.parse::<Address>().expect_err(wrong).to_string();
            assert!(!line.contains("s3cret") && line.contains("postgres://USER"), "{line}");
        }
    }
}
