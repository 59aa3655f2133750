//! Webhooks over real sockets: signed, repeated, never redirected, never into one's own network unless told to.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use together_inference::notify::{Alert, AlertKind, Notifier, NotifyError, Webhook, WebhookSecret, WebhookVerifier};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

use crate::world::spawn;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// What a receiver got.
#[derive(Clone, Debug)]
struct Got {
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A receiver that answers these statuses in turn, and 204 from then on; 0 is no answer at all.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    async fn start(answers: impl IntoIterator<Item = &'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self { address: listener.local_addr().unwrap(), got: Arc::default() };
        let (got, mut answers) = (Arc::clone(&receiver.got), answers.into_iter().collect::<VecDeque<_>>());
        spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (answer, got) = (answers.pop_front().unwrap_or("204 No Content"), Arc::clone(&got));
                spawn(async move {
                    let (mut read, mut buffer) = (Vec::new(), [0; 16_384]);
                    let (head, length) = loop {
                        let count = socket.read(&mut buffer).await.unwrap();
                        read.extend_from_slice(&buffer[..count]);
                        let text = String::from_utf8_lossy(&read);
                        let Some(head) = text.find("\r\n\r\n") else { continue };
                        let lines = text[..head].lines().skip(1).filter_map(|line| line.split_once(": "));
                        let headers: HeaderMap =
                            lines.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
                        let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
                        if read.len() >= head + 4 + length {
                            break (headers, (head + 4, length));
                        }
                    };
                    got.lock().unwrap().push(Got { headers: head, body: read[length.0..].to_vec() });
                    if answer == "0" {
                        std::future::pending::<()>().await;
                    }
                    let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        receiver
    }

    fn webhook(&self) -> Webhook {
        Webhook::allow_private(&format!("http://{}/hook", self.address), SECRET).unwrap()
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

fn alert(about: &str) -> Alert {
    Alert::new(AlertKind::BreakerOpen, about, "it fails", SystemTime::now()).detail("failures", "8 of 10")
}

#[tokio::test]
async fn an_alert_arrives_signed_by_each_secret() {
    let receiver = Receiver::start([]).await;
    let webhook = receiver.webhook().and_secret(NEW_SECRET).unwrap();
    webhook.notify(&alert("a")).await.unwrap();
    let got = &receiver.got()[0];
    for secret in [SECRET, NEW_SECRET] {
        let verifier = WebhookVerifier::new([WebhookSecret::new(secret).unwrap()]);
        verifier.verify(&got.headers, &got.body, SystemTime::now()).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!((&body["type"], &body["data"]["key"]), (&"breaker.open".into(), &"breaker.open:a".into()));
        assert!(!String::from_utf8_lossy(&got.body).contains(&secret[6..]));
    }
}

#[tokio::test]
async fn a_failing_receiver_gets_five_attempts_with_one_id_and_fresh_signatures() {
    let receiver = Receiver::start(["500 No", "503 No", "502 No", "429 No"]).await;
    receiver.webhook().notify(&alert("a")).await.unwrap();
    let got = receiver.got();
    assert_eq!(got.len(), 5);
    let verifier = || WebhookVerifier::new([WebhookSecret::new(SECRET).unwrap()]);
    for one in &got {
        assert_eq!(one.headers["webhook-id"], got[0].headers["webhook-id"]);
        verifier().verify(&one.headers, &one.body, SystemTime::now()).unwrap();
    }
    let other = Receiver::start(["500 No"; 9]).await;
    let error = other.webhook().notify(&alert("a")).await.unwrap_err();
    assert!(error.is_retryable() && other.got().len() == 5, "{error}");
}

#[tokio::test]
async fn refusals_redirects_and_an_end_are_not_repeated() {
    let receiver = Receiver::start(["400 No", "302 There", "410 Gone"]).await;
    let webhook = receiver.webhook();
    for number in 0..2 {
        let error = webhook.notify(&alert(&number.to_string())).await.unwrap_err();
        assert!(matches!(error, NotifyError::Refused { .. }), "{error}");
    }
    for number in 2..5 {
        assert!(matches!(webhook.notify(&alert(&number.to_string())).await, Err(NotifyError::Gone)));
    }
    assert_eq!(receiver.got().len(), 3, "after 410 nothing is sent");
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up_in_fifteen_seconds() {
    let receiver = Receiver::start(["0"; 9]).await;
    let start = Instant::now();
    let error = receiver.webhook().notify(&alert("a")).await.unwrap_err();
    assert!(matches!(error, NotifyError::Unreachable(_)) && receiver.got().len() >= 4, "{error}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test]
async fn ten_thousand_of_a_key_are_one_and_those_left_out_are_counted() {
    let receiver = Receiver::start([]).await;
    let webhook = receiver.webhook();
    for _ in 0..10_000 {
        webhook.notify(&alert("a")).await.unwrap();
    }
    webhook.notify(&alert("b")).await.unwrap();
    assert_eq!((receiver.got().len(), webhook.suppressed()), (2, 9_999));
}

#[tokio::test]
async fn an_alert_that_did_not_arrive_is_sent_when_it_comes_again() {
    let receiver = Receiver::start(["400 No"]).await;
    let webhook = receiver.webhook();
    webhook.notify(&alert("a")).await.unwrap_err();
    webhook.notify(&alert("a")).await.unwrap();
    assert_eq!(receiver.got().len(), 2);
}

#[tokio::test]
async fn those_left_out_are_counted_also_where_the_alert_that_says_so_does_not_arrive() {
    // Scenario: an alert arrives, three of its key are left out, ten minutes later the next one is refused, and another
    // one comes.
    // Expected: it says that three were left out.
    let receiver = Receiver::start(["204 Yes", "400 No"]).await;
    let webhook = receiver.webhook();
    for _ in 0..4 {
        webhook.notify(&alert("a")).await.unwrap();
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(600)).await;
    tokio::time::resume();
    webhook.notify(&alert("a")).await.unwrap_err();
    webhook.notify(&alert("a")).await.unwrap();
    let said: Vec<_> = receiver.got().iter().map(|got| suppressed(&got.body)).collect();
    assert_eq!(said, [0, 3, 3]);
}

fn suppressed(body: &[u8]) -> u64 {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    body["data"]["suppressed"].as_u64().unwrap()
}

#[tokio::test]
async fn a_name_that_leads_into_ones_own_network_is_refused_when_it_is_used() {
    // `localhost` is a name like any other: what it resolves to is looked at where the connection is made.
    let receiver = Receiver::start([]).await;
    let url = format!("https://localhost:{}/hook", receiver.address.port());
    let error = Webhook::new(&url, SECRET).unwrap().notify(&alert("a")).await.unwrap_err();
    assert!(matches!(error, NotifyError::Unreachable(_)), "{error}");
    let mut chain = format!("{error:?}");
    chain.make_ascii_lowercase();
    assert!(chain.contains("no public address"), "{chain}");
    assert!(receiver.got().is_empty());
}
