//! A stub of the Dragonfly scheduler: `stub-scheduler ADDRESS`. It keeps in memory which peers there are and which of them have fetched
//! something of a task, and offers these to whoever asks for that task; the first one is sent to the origin. Knows nothing of pieces, load
//! or networks. Each step of a peer is a line on standard error.

use dragonfly_api::common::v2::{Host, Peer, Task};
use dragonfly_api::scheduler::v2 as api;
use dragonfly_api::scheduler::v2::announce_peer_request::Request as Step;
use dragonfly_api::scheduler::v2::announce_peer_response::Response as Order;
use dragonfly_api::scheduler::v2::scheduler_server::{Scheduler, SchedulerServer};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Orders to one peer that may wait to be sent.
const QUEUE: usize = 64;

/// What is known: peers' machines by their id, and for each task who has some of it, as pairs of peer and host.
#[derive(Default)]
struct Known {
    hosts: HashMap<String, Host>,
    owners: HashMap<String, Vec<(String, String)>>,
}

impl Known {
    /// Those on other machines than `host` that have some of `task`.
    fn parents(&self, task: &str, host: &str) -> Vec<Peer> {
        let owners = self.owners.get(task).into_iter().flatten().filter(|(_, owner)| owner != host);
        let peer = |(id, owner): &(String, String)| {
            Some(Peer {
                id: id.clone(),
                state: "Succeeded".into(),
                host: Some(self.hosts.get(owner)?.clone()),
                task: Some(Task { id: task.into(), ..Task::default() }),
                ..Peer::default()
            })
        };
        owners.filter_map(peer).collect()
    }

    /// What a peer has to do after `step`, if it waits for an order.
    fn order(&mut self, said: &api::AnnouncePeerRequest, step: &Step) -> Option<Order> {
        match step {
            Step::RegisterPeerRequest(_) | Step::ReschedulePeerRequest(_) => {
                let candidate_parents = self.parents(&said.task_id, &said.host_id);
                Some(if candidate_parents.is_empty() {
                    let description = Some("nobody has it".into());
                    Order::NeedBackToSourceResponse(api::NeedBackToSourceResponse { description })
                } else {
                    Order::NormalTaskResponse(api::NormalTaskResponse { candidate_parents })
                })
            }
            Step::DownloadPeerBackToSourceFinishedRequest(_) | Step::DownloadPeerFinishedRequest(_) => {
                let owners = self.owners.entry(said.task_id.clone()).or_default();
                owners.push((said.peer_id.clone(), said.host_id.clone()));
                None
            }
            _ => None,
        }
    }
}

#[derive(Clone, Default)]
struct Stub(Arc<Mutex<Known>>);

impl Stub {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `said` is answered with, noted for who reads the log.
    fn answer(&self, said: &api::AnnouncePeerRequest) -> Option<Order> {
        let step = said.request.as_ref()?;
        let text = format!("{step:?}");
        let name = text.split('(').next().unwrap_or_default();
        eprintln!("host {} task {:.8} {name}", said.host_id, said.task_id);
        self.known().order(said, step)
    }
}

/// The service of peers by hand, and all the rest, which no peer of the test asks for, refused.
macro_rules! scheduler {
    (refused: $($name:ident: $request:ident => $reply:ty;)*) => {
        #[tonic::async_trait]
        impl Scheduler for Stub {
            type AnnouncePeerStream = ReceiverStream<Result<api::AnnouncePeerResponse, Status>>;
            type AnnounceCachePeerStream = ReceiverStream<Result<api::AnnounceCachePeerResponse, Status>>;
            type AnnouncePersistentPeerStream = ReceiverStream<Result<api::AnnouncePersistentPeerResponse, Status>>;
            type AnnouncePersistentCachePeerStream =
                ReceiverStream<Result<api::AnnouncePersistentCachePeerResponse, Status>>;

            async fn announce_host(&self, said: Request<api::AnnounceHostRequest>) -> Result<Response<()>, Status> {
                let Some(host) = said.into_inner().host else { return Ok(Response::new(())) };
                let id = host.id.clone();
                if self.known().hosts.insert(id.clone(), host).is_none() {
                    eprintln!("host {id} is there");
                }
                Ok(Response::new(()))
            }

            async fn delete_host(&self, _: Request<api::DeleteHostRequest>) -> Result<Response<()>, Status> {
                Ok(Response::new(()))
            }

            async fn list_hosts(
                &self,
                _: Request<api::ListHostsRequest>,
            ) -> Result<Response<api::ListHostsResponse>, Status> {
                let hosts = self.known().hosts.values().cloned().collect();
                Ok(Response::new(api::ListHostsResponse { hosts, ..Default::default() }))
            }

            async fn delete_peer(&self, _: Request<api::DeletePeerRequest>) -> Result<Response<()>, Status> {
                Ok(Response::new(()))
            }

            async fn delete_task(&self, _: Request<api::DeleteTaskRequest>) -> Result<Response<()>, Status> {
                Ok(Response::new(()))
            }

            async fn announce_peer(
                &self,
                said: Request<Streaming<api::AnnouncePeerRequest>>,
            ) -> Result<Response<Self::AnnouncePeerStream>, Status> {
                let (stub, mut said) = (self.clone(), said.into_inner());
                let (orders, stream) = tokio::sync::mpsc::channel(QUEUE);
                tokio::spawn(async move {
                    while let Some(Ok(said)) = said.next().await {
                        let Some(order) = stub.answer(&said) else { continue };
                        let reply = api::AnnouncePeerResponse { response: Some(order) };
                        if orders.send(Ok(reply)).await.is_err() {
                            return;
                        }
                    }
                });
                Ok(Response::new(ReceiverStream::new(stream)))
            }

            async fn announce_cache_peer(
                &self,
                _: Request<Streaming<api::AnnounceCachePeerRequest>>,
            ) -> Result<Response<Self::AnnounceCachePeerStream>, Status> {
                Err(Status::unimplemented("announce_cache_peer"))
            }

            async fn announce_persistent_peer(
                &self,
                _: Request<Streaming<api::AnnouncePersistentPeerRequest>>,
            ) -> Result<Response<Self::AnnouncePersistentPeerStream>, Status> {
                Err(Status::unimplemented("announce_persistent_peer"))
            }

            async fn announce_persistent_cache_peer(
                &self,
                _: Request<Streaming<api::AnnouncePersistentCachePeerRequest>>,
            ) -> Result<Response<Self::AnnouncePersistentCachePeerStream>, Status> {
                Err(Status::unimplemented("announce_persistent_cache_peer"))
            }

            $(async fn $name(&self, _: Request<api::$request>) -> Result<Response<$reply>, Status> {
                eprintln!("refused: {}", stringify!($name));
                Err(Status::unimplemented(stringify!($name)))
            })*
        }
    };
}

scheduler! { refused:
    stat_peer: StatPeerRequest => Peer;
    stat_task: StatTaskRequest => Task;
    stat_cache_peer: StatCachePeerRequest => dragonfly_api::common::v2::CachePeer;
    delete_cache_peer: DeleteCachePeerRequest => ();
    stat_cache_task: StatCacheTaskRequest => dragonfly_api::common::v2::CacheTask;
    delete_cache_task: DeleteCacheTaskRequest => ();
    stat_persistent_peer: StatPersistentPeerRequest => dragonfly_api::common::v2::PersistentPeer;
    delete_persistent_peer: DeletePersistentPeerRequest => ();
    upload_persistent_task_started: UploadPersistentTaskStartedRequest => ();
    upload_persistent_task_finished: UploadPersistentTaskFinishedRequest => dragonfly_api::common::v2::PersistentTask;
    upload_persistent_task_failed: UploadPersistentTaskFailedRequest => ();
    stat_persistent_task: StatPersistentTaskRequest => dragonfly_api::common::v2::PersistentTask;
    delete_persistent_task: DeletePersistentTaskRequest => ();
    stat_persistent_cache_peer: StatPersistentCachePeerRequest => dragonfly_api::common::v2::PersistentCachePeer;
    delete_persistent_cache_peer: DeletePersistentCachePeerRequest => ();
    upload_persistent_cache_task_started: UploadPersistentCacheTaskStartedRequest => ();
    upload_persistent_cache_task_finished: UploadPersistentCacheTaskFinishedRequest => dragonfly_api::common::v2::PersistentCacheTask;
    upload_persistent_cache_task_failed: UploadPersistentCacheTaskFailedRequest => ();
    stat_persistent_cache_task: StatPersistentCacheTaskRequest => dragonfly_api::common::v2::PersistentCacheTask;
    delete_persistent_cache_task: DeletePersistentCacheTaskRequest => ();
    preheat_image: PreheatImageRequest => ();
    stat_image: StatImageRequest => api::StatImageResponse;
    preheat_file: PreheatFileRequest => ();
    stat_file: StatFileRequest => api::StatFileResponse;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: stub-scheduler ADDRESS, as in 127.0.0.1:18002")?;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let server = tonic::transport::Server::builder().add_service(health);
    server.add_service(SchedulerServer::new(Stub::default())).serve(address.parse()?).await?;
    Ok(())
}
