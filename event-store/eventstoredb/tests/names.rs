//! Which log of a server is meant. No server is needed to refuse a name that cannot be one.

use event_store::StoreError;
use event_store_eventstoredb::EsdbStore;

fn refused(url: &str, name: &str) -> String {
    let index = tempfile::tempdir().expect("a scratch directory");
    match EsdbStore::open(url, name, index.path()) {
        Err(StoreError::Foreign(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_at_the_end_of_the_address_is_the_log_s() {
    let said = refused("esdb://127.0.0.1:1?tls=false#not-a-name", "jangbu");
    assert!(said.contains("\"not-a-name\""), "{said}");
    let said = refused("esdb://user:secret@127.0.0.1:1?tls=false#", "jangbu");
    assert!(said.contains("\"\"") && !said.contains("secret"), "{said}");
}

#[test]
fn without_one_it_is_what_the_program_says() {
    let said = refused("esdb://127.0.0.1:1?tls=false", "not a name");
    assert!(said.contains("\"not a name\""), "{said}");
}
