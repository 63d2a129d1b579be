use std::net::TcpListener;

use eventstore::{CurrentRevision, GrpcConnectionError};

use super::*;

fn question() -> Question {
    Question {
        stream: "jangbu-log".into(),
        after: None,
    }
}

fn append() -> Append {
    Append {
        stream: "jangbu-shard-0".into(),
        expected: Expected::After(Some(3)),
        entries: Vec::new(),
    }
}

#[test]
fn what_became_of_an_append_depends_on_the_error() {
    let elsewhere = appending(Error::WrongExpectedVersion {
        expected: StreamState::StreamRevision(3),
        current: CurrentRevision::Current(4),
    });
    assert!(matches!(elsewhere, AppendError::Elsewhere));
    for error in [
        Error::GrpcConnectionError(GrpcConnectionError::MaxDiscoveryAttemptReached(3)),
        Error::ConnectionClosed,
        Error::AccessDenied,
        Error::ResourceDeleted,
    ] {
        let text = error.to_string();
        assert!(matches!(appending(error), AppendError::NotWritten(_)), "{text}");
    }
    for error in [
        Error::DeadlineExceeded,
        Error::ServerError("transport error".into()),
        Error::InternalClientError,
        Error::InternalParsingError("half an answer".into()),
    ] {
        let text = error.to_string();
        assert!(matches!(appending(error), AppendError::Unknown(_)), "{text}");
    }
    assert!(is_too_large("Maximum Append Size of 1048576 Exceeded."));
}

#[test]
fn data_goes_to_the_server_as_it_is() {
    let text = |json, data: &'static str| {
        let entry = Entry {
            json,
            data: data.into(),
            ..Entry::own("order.placed", &())
        };
        format!("{:?}", event_data(entry))
    };
    let json = text(true, r#"{ "a" :1.0}"#);
    assert!(json.contains(r#"{ \"a\" :1.0}"#) && json.contains("application/json"), "{json}");
    let no_json = text(false, " {} ");
    assert!(
        no_json.contains("b\" {} \"") && no_json.contains("application/octet-stream"),
        "{no_json}"
    );
}

#[test]
fn an_address_that_is_none_is_refused_without_its_password() {
    for url in [
        "",
        "postgres://u:secret@h",
        "esdb://u:secret@",
        "esdb://u:secret@h?tls=perhaps",
        "esdb://u:secret@h:notaport",
    ] {
        let Err(refused) = Client::new(url).map(drop) else { continue };
        assert!(matches!(refused, StoreError::Foreign(_)), "{url}: {refused}");
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }
    assert!(Client::new("postgres://u:secret@h").is_err());
}

#[test]
fn where_no_server_is_nothing_is_written() {
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("bound").port()
    };
    let client = Client::new(&format!(
        "esdb://127.0.0.1:{port}?tls=false&maxDiscoverAttempts=2&discoveryInterval=10"
    ))
    .expect("an address");
    // The client's connection ends with the first failure; ours goes on.
    for _ in 0..3 {
        assert!(client.read_each(&[question()]).is_err());
        let refused = client.append(append());
        assert!(matches!(refused, Err(AppendError::NotWritten(_))), "{refused:?}");
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let url = format!("esdb://127.0.0.1:{port}?tls=false&maxDiscoverAttempts=2&discoveryInterval=10&gossipTimeout=100");
    let client = Client::new(&url).expect("an address");
    assert!(client.read_each(&[question()]).is_err());
    assert!(client.append(append()).is_err());
}

#[test]
fn a_client_may_be_used_and_dropped_where_another_runtime_runs() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::new("esdb://127.0.0.1:1?tls=false&maxDiscoverAttempts=1").expect("an address");
        assert!(client.read_each(&[question()]).is_err());
    });
}
