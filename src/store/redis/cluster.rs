//! A connection to a cluster, which can tell whether another one would lead elsewhere.

use std::sync::Arc;
use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::{RedisResult, Value, cmd};

/// The crate `redis` learns from what a node answers that another has taken over from it, so not from one that says nothing.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) connection: ClusterConnection,
    /// Which nodes served which slots when the connection was made, unless it was given.
    slots: Option<Arc<Vec<Value>>>,
}

impl Cluster {
    pub(super) fn given(connection: ClusterConnection) -> Self {
        Self {
            connection,
            slots: None,
        }
    }

    pub(super) async fn connect(client: &ClusterClient, limit: Duration) -> RedisResult<Self> {
        // Without, it waits for a node that hangs when it learns of moved slots, and holds all commands back until then.
        let config = ClusterConfig::new().set_response_timeout(limit);
        let mut connection = client.get_async_connection_with_config(config).await?;
        let slots = slots(&mut connection).await?;
        Ok(Self {
            connection,
            slots: Some(Arc::new(slots)),
        })
    }

    /// Whether other nodes serve slots now. Not known where none answers.
    pub(super) async fn has_moved(&self) -> bool {
        let Some(before) = &self.slots else {
            return false;
        };
        // Nodes may tell of them in different orders.
        slots(&mut self.connection.clone())
            .await
            .is_ok_and(|now| !now.iter().all(|slots| before.contains(slots)))
    }
}

/// What the first node to answer says.
async fn slots(connection: &mut ClusterConnection) -> RedisResult<Vec<Value>> {
    let mut slots = cmd("CLUSTER");
    slots.arg("SLOTS");
    let all = MultipleNodeRoutingInfo::AllMasters;
    let route = RoutingInfo::MultiNode((all, Some(ResponsePolicy::OneSucceeded)));
    let answer = connection.route_command(slots, route).await?;
    match answer.extract_error()? {
        Value::Array(slots) => Ok(slots),
        _ => Ok(Vec::new()),
    }
}
