//! What the log holds beside events: recorded answers, effects owed, timers, what is set aside, snapshots.
#![no_main]

use std::fmt::Debug;

use aggregates::{Command, Kind, Refusal, State};
// What `stored` asks of its own crate.
use engine::{Answer, Cause};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

#[allow(dead_code, clippy::pedantic)]
#[path = "../../engine/src/stored.rs"]
mod stored;

fuzz_target!(|json: &[u8]| {
    if let Ok(answer) = stored::decode_answer(Uuid::nil(), json) {
        let text = stored::encode_answer(&answer).expect("an answer is JSON");
        assert_eq!(stored::decode_answer(Uuid::nil(), &text).expect("our own text"), answer);
    }
    comes_back::<stored::Owed>(json);
    comes_back::<stored::Task>(json);
    comes_back::<stored::MessageAnswer>(json);
    comes_back::<stored::ParkedInput>(json);
    comes_back::<Command>(json);
    comes_back::<Refusal>(json);
    for kind in Kind::ALL {
        if let Ok(state) = State::from_json(*kind, json) {
            let text = state.to_json().expect("a state is JSON");
            assert_eq!(State::from_json(*kind, &text).expect("our own snapshot"), state);
        }
    }
});

fn comes_back<T: Serialize + DeserializeOwned + Debug>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else { return };
    let text = serde_json::to_string(&value).expect("it is JSON");
    let again: T = serde_json::from_str(&text).expect("our own text");
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
    assert_eq!(serde_json::to_string(&again).expect("it is JSON"), text);
}
