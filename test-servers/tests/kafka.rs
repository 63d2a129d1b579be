//! Kafka, started, broken and stopped; kcat is the client.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use test_servers::Kafka;

/// kcat asks in vain for so long, where that is expected.
const A_WHILE: Duration = Duration::from_secs(3);

fn kcat(broker: &str, arguments: &[&str], input: &str) -> Option<String> {
    let mut kcat = Command::new("timeout")
        .args(["60", "kcat", "-q", "-b", broker])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tools/setup.sh servers installs kcat");
    kcat.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = kcat.wait_with_output().expect("it ends");
    output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
}

fn send(broker: &str, topic: &str, message: &str) {
    kcat(broker, &["-P", "-t", topic, "-p", "0", "-X", "enable.idempotence=true"], message).expect("taken");
}

fn received(broker: &str, topic: &str) -> Vec<String> {
    let text = kcat(broker, &["-C", "-t", topic, "-p", "0", "-o", "beginning", "-e"], "").expect("read");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_topic_has_its_partitions_and_keeps_what_it_is_sent() {
    let kafka = Kafka::shared();
    let name = format!("test-servers-{}", std::process::id());
    kafka.topic_with(&name, 3, &[("retention.ms", "3600000")]);
    kafka.topic(&name, 3);
    let listed = kcat(kafka.url(), &["-L", "-m", "10", "-t", &name], "").expect("listed");
    assert_eq!(listed.matches("    partition ").count(), 3, "{listed}");
    send(kafka.url(), &name, "one\ntwo\n");
    assert_eq!(received(kafka.url(), &name), ["one", "two"]);
}

#[test]
fn nothing_is_lost_in_a_kill_nor_in_a_planned_restart_and_a_proxy_cannot_be_gone_around() {
    let mut kafka = Kafka::start();
    kafka.topic("a", 2);
    send(&kafka.url(), "a", "one\n");
    kafka.kill();
    kafka.restart();
    send(&kafka.url(), "a", "two\n");
    kafka.stop();
    kafka.restart();
    assert_eq!(received(&kafka.url(), "a"), ["one", "two"]);

    let proxy = kafka.proxy();
    let through = proxy.address().to_string();
    let listed = kcat(&through, &["-L", "-m", "10"], "").expect("listed");
    assert!(listed.contains(&format!("broker 1 at {through}")), "{listed}");
    assert_eq!(received(&through, "a"), ["one", "two"]);
    proxy.cut();
    let patience = A_WHILE.as_secs().to_string();
    assert_eq!(kcat(&through, &["-L", "-m", &patience], ""), None);
    proxy.mend();
    kafka.freeze();
    assert_eq!(kcat(&through, &["-L", "-m", &patience], ""), None);
    kafka.thaw();
    assert_eq!(received(&through, "a"), ["one", "two"]);
}
