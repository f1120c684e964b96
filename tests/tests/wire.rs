// SPDX-License-Identifier: Apache-2.0
//! Calls that no client would make, and what comes back.

use std::cell::RefCell;
use std::time::Duration;

use e2e::{Failure, Outcome, World, ensure};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// A message whose first field is a string, as nearly every question about one thing is.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

pub(crate) fn named(name: &str) -> Named {
    Named { name: name.to_owned() }
}

/// A bare connection to a service of a daemon.
///
/// Refusals are checked one by one and told all together by [`done`](Self::done), so that one run
/// shows every difference.
pub(crate) struct Wire {
    service: &'static str,
    runtime: Runtime,
    channel: Channel,
    namespace: String,
    wrong: RefCell<Vec<String>>,
}

impl Wire {
    /// Connects to `containerd.services.<service>`.
    pub(crate) fn connect(world: &World, service: &'static str) -> Outcome<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", world.daemon.address().display()))?;
        Self::over(world, service, endpoint)
    }

    /// The same by another way than the daemon's socket.
    pub(crate) fn over(world: &World, service: &'static str, endpoint: Endpoint) -> Outcome<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let channel = runtime.block_on(endpoint.timeout(Duration::from_secs(30)).connect())?;
        let namespace = world.ctr.namespace().to_owned();
        Ok(Self { service, runtime, channel, namespace, wrong: RefCell::default() })
    }

    /// The same with another namespace in the header, or without that header if it is empty.
    pub(crate) fn in_namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// Makes a call and checks that it is refused with this code and these words. Three dots at
    /// their start stand for whatever comes before.
    pub(crate) fn refuses<M>(&self, method: &str, message: M, code: Code, words: &str)
    where
        M: Message + 'static,
    {
        self.refuses_all(method, vec![message], code, words);
    }

    /// The same for a call with several requests.
    pub(crate) fn refuses_all<M>(&self, method: &str, messages: Vec<M>, code: Code, words: &str)
    where
        M: Message + 'static,
    {
        let (found, said) = match self.call(method, messages) {
            Ok(()) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        let alike = words.strip_prefix("...").map_or(said == words, |part| said.contains(part));
        if found != code || !alike {
            self.wrong
                .borrow_mut()
                .push(format!("{method}\n  want {code:?} {words:?}\n  have {found:?} {said:?}"));
        }
    }

    /// Makes a call that must succeed.
    pub(crate) fn accepts<M>(&self, method: &str, message: M) -> Outcome
    where
        M: Message + 'static,
    {
        self.accepts_all(method, vec![message])
    }

    /// The same for a call with several requests.
    pub(crate) fn accepts_all<M>(&self, method: &str, messages: Vec<M>) -> Outcome
    where
        M: Message + 'static,
    {
        let answer = self.call(method, messages);
        answer.map_err(|status| Failure::new(format!("{method}: {status}")))
    }

    /// Fails if anything was answered otherwise than it should have been.
    pub(crate) fn done(&self) -> Outcome {
        let wrong = self.wrong.borrow();
        ensure!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    }

    /// Makes a call and gives what is answered, or the refusal; `DeadlineExceeded` when nothing came
    /// within `limit`.
    pub(crate) fn ask<M, R>(&self, method: &str, message: M, limit: Duration) -> Result<R, Status>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let answers = self.runtime.block_on(async {
            let asked = self.answers(method, vec![message], limit);
            // The peer is told of the limit too, but may not heed it.
            tokio::time::timeout(limit, asked).await
        });
        let elapsed = |_| Status::deadline_exceeded("no answer");
        let answers: Vec<R> = answers.map_err(elapsed)??;
        answers.into_iter().next().ok_or_else(|| Status::internal("an answer without a message"))
    }

    /// Sends messages to a method, whatever its kind, and waits for the end of its answer.
    ///
    /// Answers are decoded as the empty message, which every message can be.
    fn call<M>(&self, method: &str, messages: Vec<M>) -> Result<(), Status>
    where
        M: Message + 'static,
    {
        let limit = Duration::from_secs(30);
        self.runtime.block_on(self.answers::<M, ()>(method, messages, limit)).map(drop)
    }

    /// The daemon is told of no deadline, or it would be chance which side comes first with the news.
    async fn answers<M, R>(
        &self,
        method: &str,
        messages: Vec<M>,
        limit: Duration,
    ) -> Result<Vec<R>, Status>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let answers = tokio::time::timeout(limit, self.all(method, messages)).await;
        answers.unwrap_or_else(|late| Err(Status::deadline_exceeded(format!("{method}: {late}"))))
    }

    async fn all<M, R>(&self, method: &str, messages: Vec<M>) -> Result<Vec<R>, Status>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let path =
            PathAndQuery::try_from(format!("/containerd.services.{}/{method}", self.service))
                .map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(tokio_stream::iter(messages));
        if let Some(namespace) = Some(&self.namespace).filter(|name| !name.is_empty()) {
            let value = MetadataValue::try_from(namespace)
                .map_err(|error| Status::internal(error.to_string()))?;
            request.metadata_mut().insert("containerd-namespace", value);
        }
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let codec = ProstCodec::<M, R>::default();
        let mut answers = grpc.streaming(request, path, codec).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.push(answer);
        }
        Ok(all)
    }
}
