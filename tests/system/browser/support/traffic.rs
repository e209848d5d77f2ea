//! What a page asked for over the network, put together from the events that Chromium records.

use serde_json::Value;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    id: String,
    pub url: String,
    /// None while nothing has come, or when nothing will.
    pub status: Option<u64>,
    /// What came over the network so far, heads included; 0 for what the cache had.
    pub bytes: u64,
    pub is_over: bool,
}

/// In the order in which they were sent.
#[derive(Debug, Default)]
pub struct Traffic(Vec<Request>);

impl Traffic {
    /// Takes one record of the log `performance`.
    pub fn take(&mut self, record: &Value) {
        let text = record["message"].as_str().unwrap_or_default();
        let event: Value = serde_json::from_str(text).unwrap();
        let event = &event["message"];
        let (name, facts) = (
            event["method"].as_str().unwrap_or_default(),
            &event["params"],
        );
        let id = facts["requestId"].as_str().unwrap_or_default();
        if name == "Network.requestWillBeSent" {
            // A redirection goes on under the id of what was redirected.
            self.0.push(Request {
                id: id.to_owned(),
                url: facts["request"]["url"].as_str().unwrap().to_owned(),
                status: None,
                bytes: 0,
                is_over: false,
            });
            return;
        }
        let Some(request) = self.0.iter_mut().rev().find(|request| request.id == id) else {
            return;
        };
        let count = |value: &Value| value["encodedDataLength"].as_f64().unwrap_or(0.0) as u64;
        match name {
            "Network.responseReceived" => {
                request.status = facts["response"]["status"].as_u64();
                request.bytes = count(&facts["response"]);
            }
            "Network.dataReceived" => request.bytes += count(facts),
            "Network.loadingFinished" => {
                request.bytes = count(facts);
                request.is_over = true;
            }
            "Network.loadingFailed" => request.is_over = true,
            _ => {}
        }
    }

    pub fn requests(&self) -> &[Request] {
        &self.0
    }
}
