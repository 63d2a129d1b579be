//! The keys of several nodes, in PostgreSQL.
//!
//! What protects the keys is the database: they are in its tables as they are, and whoever reads those opens whatever was sealed. So it is
//! another database than the log's, on another server if possible, with a role of its own that nobody else has, `sslmode=verify-full` in
//! its address, and backups that are kept apart from those of the log. A server that is told to log statements logs the values of new
//! keys with them, unless `log_parameter_max_length` is 0 for this database. Removing a subject's key empties its row; old versions of
//! the row stay in backups, in archived WAL and until the next vacuum in the table's file, so backups and archives must end some time.
//!
//! The role that owns the tables makes them when a node starts; a node that only reads needs `SELECT` on `jangbu_schemas`, `vault`,
//! `shop_keys` and `subject_keys`, one that also writes `INSERT`, `UPDATE` and `DELETE` on the last three.
//!
//! Keys are wiped from the memory of this process where it is ours; the buffers of the connection are not.

mod schema;
mod sessions;

use std::fmt;
use std::time::Duration;

use key_vault::{
    Changes, Gone, KeyKind, KeyPlace, KeyVault, Opening, Removal, Secret, Seen, ShopKeys, TokenSecrets, Unchecked, VaultError,
};
use postgres_session::{Address, Row, Session};
use uuid::Uuid;

use crate::schema::SCHEMA;
use crate::sessions::{Failure, Sessions};

/// While the database cannot be asked, keys are used from memory for so long and no longer.
///
/// An erasure may be in it that this node has not seen: personal data is not readable for longer than it takes to notice. A key of access
/// tokens may have been removed; that is rare, and refusing everybody's tokens stops the shop, so a database that is replaced by its standby
/// within a minute stops nothing.
pub const UNCHECKED: Unchecked = Unchecked {
    subjects: Duration::from_secs(5),
    tokens: Duration::from_mins(1),
};

/// Of more removals than this since the last look, none is named.
const MOST_NAMED: i64 = 1000;

/// So often a key that vanishes while it is made is made again.
const ATTEMPTS: usize = 3;

const INDEX: &str = "index";
const FINGERPRINT: &str = "fingerprint";
const TOKEN_CURRENT: &str = "token-current";
const TOKEN_PREVIOUS: &str = "token-previous";

/// Keys in a database.
pub struct PostgresKeys {
    sessions: Sessions,
}

impl PostgresKeys {
    /// The keys in this database, which is first asked when a vault is opened.
    ///
    /// # Errors
    /// There are no threads to ask it with.
    pub fn at(address: &Address) -> Result<Self, VaultError> {
        let address = address.clone().named("jangbu keys").for_writing();
        Ok(Self {
            sessions: Sessions::start(address)?,
        })
    }

    /// Opens the vault in this database.
    ///
    /// # Errors
    /// As [`KeyVault::open_in`].
    pub fn open(address: &Address, how: Opening) -> Result<KeyVault, VaultError> {
        KeyVault::open_in(Self::at(address)?, how)
    }

    /// Asks, with what names the database in errors.
    fn ask<T: Send + 'static>(&self, question: impl Fn(&Session, &Table) -> Result<T, Failure> + Send + 'static) -> Result<T, VaultError> {
        let table = Table(self.sessions.address().clone());
        self.sessions.ask(move |session| question(session, &table))
    }
}

impl fmt::Display for PostgresKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sessions.address())
    }
}

impl fmt::Debug for PostgresKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresKeys").field(self.sessions.address()).finish()
    }
}

impl KeyPlace for PostgresKeys {
    fn open(&self, how: Opening, proposed: &ShopKeys) -> Result<ShopKeys, VaultError> {
        let proposed = proposed.clone();
        self.ask(move |session, table| {
            table.prepare(session, how)?;
            if how == Opening::Make {
                make(session, &proposed)?;
            }
            session.query_opt(schema::IS_MADE, &[])?.ok_or_else(|| table.no_vault())?;
            if how != Opening::Read {
                add_token(session, &proposed.tokens.current)?;
            }
            table.shop(session)
        })
    }

    fn tokens(&self) -> Result<TokenSecrets, VaultError> {
        self.ask(|session, table| table.tokens(session))
    }

    fn rotate_tokens(&self, next: &Secret) -> Result<TokenSecrets, VaultError> {
        // Apart from what follows: asked again it would rotate again.
        let (_, from) = self.ask(|session, table| table.counts(session))?;
        let next = next.clone();
        self.ask(move |session, table| {
            let (key, mark) = (&next[..], KeyKind::Token.check(&next));
            session.execute(schema::ROTATE, &[&from, &key, &mark])?;
            table.tokens(session)
        })
    }

    /// Without its token keys a shop only asks everyone to log in again, so removing them is the way to revoke all tokens.
    fn add_token(&self, proposed: &Secret) -> Result<(), VaultError> {
        let proposed = proposed.clone();
        self.ask(move |session, _| add_token(session, &proposed))
    }

    fn subject(&self, subject: Uuid) -> Result<Option<Secret>, VaultError> {
        self.ask(move |session, table| match session.query_opt(schema::SUBJECT, &[&subject])? {
            Some(row) => Ok(table.subject_key(&row)?.1),
            None => Ok(None),
        })
    }

    fn create_subject(&self, subject: Uuid, proposed: &Secret) -> Result<Secret, VaultError> {
        let proposed = proposed.clone();
        self.ask(move |session, table| {
            let (key, mark) = (&proposed[..], KeyKind::Subject(subject).check(&proposed));
            for _ in 0..ATTEMPTS {
                if session.execute(schema::CREATE_SUBJECT, &[&subject, &key, &mark])? == 1 {
                    return Ok(proposed.clone());
                }
                // Gone since then, when it was discarded.
                if let Some(row) = session.query_opt(schema::SUBJECT, &[&subject])? {
                    let erased = || VaultError::NoSubjectKey { subject };
                    return Ok(table.subject_key(&row)?.1.ok_or_else(erased)?);
                }
            }
            Err(Failure::Vault(VaultError::Unavailable {
                place: table.0.to_string(),
                reason: format!("the key of {subject} is made and discarded all the time"),
            }))
        })
    }

    fn create_subjects(&self, keys: &[(Uuid, Secret)]) -> Result<(), VaultError> {
        let keys = keys.to_vec();
        self.ask(move |session, table| {
            let subjects: Vec<Uuid> = keys.iter().map(|(subject, _)| *subject).collect();
            let secrets: Vec<&[u8]> = keys.iter().map(|(_, key)| &key[..]).collect();
            let marks: Vec<String> = keys.iter().map(|(subject, key)| KeyKind::Subject(*subject).check(key)).collect();
            session.execute(schema::CREATE_SUBJECTS, &[&subjects, &secrets, &marks])?;
            let same = session.query_opt(schema::SAME_SUBJECTS, &[&subjects, &secrets])?;
            let same: i64 = same.map_or(Ok(0), |row| row.try_get(0)).map_err(postgres_session::Error::from)?;
            if usize::try_from(same) == Ok(keys.len()) {
                return Ok(());
            }
            Err(Failure::Vault(VaultError::Taken {
                place: table.0.to_string(),
            }))
        })
    }

    fn remove_subject(&self, subject: Uuid, why: Removal) -> Result<(), VaultError> {
        self.ask(move |session, table| {
            if why == Removal::Unused {
                session.execute(schema::DISCARD, &[&subject, &MOST_NAMED])?;
                return Ok(());
            }
            session.execute(schema::ERASE, &[&subject])?;
            // Nothing is erased where nothing counts erasures.
            let erased = session.query_opt(schema::IS_ERASED, &[&subject])?;
            let erased: bool = erased
                .map_or(Ok(false), |row| row.try_get(0))
                .map_err(postgres_session::Error::from)?;
            if erased { Ok(()) } else { Err(table.no_vault().into()) }
        })
    }

    fn subjects(&self, after: Option<Uuid>, most: usize) -> Result<Vec<(Uuid, Secret)>, VaultError> {
        let first = after.map_or(Some(0), |after| after.as_u128().checked_add(1));
        let Some(first) = first.map(Uuid::from_u128) else {
            return Ok(Vec::new());
        };
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.ask(move |session, table| {
            let mut found = Vec::new();
            for row in session.query(schema::SUBJECTS, &[&first, &most])? {
                if let (subject, Some(key)) = table.subject_key(&row)? {
                    found.push((subject, key));
                }
            }
            Ok(found)
        })
    }

    fn changes(&self, seen: &mut Seen) -> Result<Changes, VaultError> {
        let before = *seen;
        let (changes, after) = self.ask(move |session, table| {
            let tokens = table.tokens(session)?;
            let (removal, _) = table.counts(session)?;
            let gone = match before.removal {
                None => Gone::These(Vec::new()),
                Some(known) if known == removal => Gone::These(Vec::new()),
                Some(known) => gone_between(session, known, removal)?,
            };
            let after = Seen { removal: Some(removal) };
            Ok((Changes { tokens, gone }, after))
        })?;
        *seen = after;
        Ok(changes)
    }

    fn unchecked(&self) -> Option<Unchecked> {
        Some(UNCHECKED)
    }
}

fn make(session: &Session, keys: &ShopKeys) -> Result<(), Failure> {
    let mut kept = vec![
        (INDEX, KeyKind::Index, &keys.index),
        (FINGERPRINT, KeyKind::Fingerprint, &keys.fingerprint),
        (TOKEN_CURRENT, KeyKind::Token, &keys.tokens.current),
    ];
    kept.extend(keys.tokens.previous.iter().map(|key| (TOKEN_PREVIOUS, KeyKind::Token, key)));
    let names: Vec<&str> = kept.iter().map(|(name, ..)| *name).collect();
    let secrets: Vec<&[u8]> = kept.iter().map(|(.., key)| &key[..]).collect();
    let marks: Vec<String> = kept.iter().map(|(_, kind, key)| kind.check(key)).collect();
    session.execute(schema::MAKE, &[&names, &secrets, &marks])?;
    Ok(())
}

fn add_token(session: &Session, key: &Secret) -> Result<(), Failure> {
    let mark = KeyKind::Token.check(key);
    session.execute(schema::ADD_TOKEN, &[&&key[..], &mark])?;
    Ok(())
}

fn gone_between(session: &Session, known: i64, now: i64) -> Result<Gone, Failure> {
    let removals = now - known;
    // Too many, or a backup was restored.
    if !(0..=MOST_NAMED).contains(&removals) {
        return Ok(Gone::Many);
    }
    let rows = session.query(schema::GONE_BETWEEN, &[&known, &now])?;
    // Somebody whose key was discarded has another one by now, and who that is stands nowhere.
    if i64::try_from(rows.len()) != Ok(removals) {
        return Ok(Gone::Many);
    }
    let subjects: Result<Vec<Uuid>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok(Gone::These(subjects.map_err(postgres_session::Error::from)?))
}

/// The tables of a database, which errors name.
struct Table(Address);

impl Table {
    fn prepare(&self, session: &Session, how: Opening) -> Result<(), Failure> {
        let of_schema = |error| Failure::of_schema(&self.0, error);
        if how != Opening::Make && SCHEMA.found(session).map_err(of_schema)? == 0 {
            return Err(self.no_vault().into());
        }
        let prepared = if how == Opening::Read {
            SCHEMA.check(session)
        } else {
            SCHEMA.migrate(session)
        };
        prepared.map_err(of_schema)
    }

    fn shop(&self, session: &Session) -> Result<ShopKeys, Failure> {
        let rows = session.query(schema::SHOP_KEYS, &[])?;
        Ok(ShopKeys {
            index: self.must(&rows, INDEX, KeyKind::Index)?,
            fingerprint: self.must(&rows, FINGERPRINT, KeyKind::Fingerprint)?,
            tokens: self.tokens_in(&rows)?,
        })
    }

    fn tokens(&self, session: &Session) -> Result<TokenSecrets, Failure> {
        self.tokens_in(&session.query(schema::SHOP_KEYS, &[])?)
    }

    /// Of one look: the two belong together.
    fn tokens_in(&self, rows: &[Row]) -> Result<TokenSecrets, Failure> {
        let current = self.must(rows, TOKEN_CURRENT, KeyKind::Token)?;
        let previous = self.find(rows, TOKEN_PREVIOUS, KeyKind::Token)?;
        Ok(TokenSecrets {
            previous: previous.filter(|previous| *previous != current),
            current,
        })
    }

    fn must(&self, rows: &[Row], name: &'static str, kind: KeyKind) -> Result<Secret, Failure> {
        let missing = || VaultError::Missing {
            key: format!("the {name} key in {}", self.0),
        };
        self.find(rows, name, kind)?.ok_or_else(|| missing().into())
    }

    fn find(&self, rows: &[Row], name: &'static str, kind: KeyKind) -> Result<Option<Secret>, Failure> {
        for row in rows {
            if text(row, 0)? == name {
                return key(row, kind, || format!("the {name} key in {}", self.0)).map(Some);
            }
        }
        Ok(None)
    }

    /// How many removals and rotations there were.
    fn counts(&self, session: &Session) -> Result<(i64, i64), Failure> {
        let row = session.query_opt(schema::COUNTS, &[])?.ok_or_else(|| self.no_vault())?;
        let count = |column| row.try_get(column).map_err(postgres_session::Error::from);
        Ok((count(0)?, count(1)?))
    }

    /// A subject, and its key unless it was erased.
    fn subject_key(&self, row: &Row) -> Result<(Uuid, Option<Secret>), Failure> {
        let subject: Uuid = row.try_get(0).map_err(postgres_session::Error::from)?;
        let kept: Option<&[u8]> = row.try_get(1).map_err(postgres_session::Error::from)?;
        if kept.is_none() {
            return Ok((subject, None));
        }
        let name = || format!("the key of {subject} in {}", self.0);
        Ok((subject, Some(key(row, KeyKind::Subject(subject), name)?)))
    }

    fn no_vault(&self) -> VaultError {
        VaultError::Missing {
            key: format!("the vault in {}", self.0),
        }
    }
}

/// The key in the second column, by the mark in the third.
fn key(row: &Row, kind: KeyKind, name: impl Fn() -> String) -> Result<Secret, Failure> {
    let damaged = |reason| VaultError::Damaged { key: name(), reason };
    let bytes: &[u8] = row.try_get(1).map_err(postgres_session::Error::from)?;
    let key = Secret::from_slice(bytes).ok_or_else(|| damaged("it has no key of 32 bytes"))?;
    if kind.check(&key) == text(row, 2)? {
        Ok(key)
    } else {
        Err(damaged("its check does not match").into())
    }
}

fn text(row: &Row, column: usize) -> Result<&str, Failure> {
    Ok(row.try_get(column).map_err(postgres_session::Error::from)?)
}
