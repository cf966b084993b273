//! A connection to a cluster, which can tell whether another one would lead elsewhere.

use std::sync::Arc;
use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::{RedisResult, Value, cmd};
use tokio::time::timeout;

/// The crate `redis` learns from what a node answers that another has taken over from it, so not from one that says nothing.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) connection: ClusterConnection,
    /// The nodes that served slots when the connection was made, unless it was given. Empty where that could not be known.
    masters: Option<Arc<Vec<Value>>>,
}

impl Cluster {
    pub(super) fn given(connection: ClusterConnection) -> Self {
        Self {
            connection,
            masters: None,
        }
    }

    pub(super) async fn connect(client: &ClusterClient, limit: Duration) -> RedisResult<Self> {
        // Without, it waits for a node that hangs when it learns of moved slots, and holds all commands back until then.
        let config = ClusterConfig::new().set_response_timeout(limit);
        let mut connection = client.get_async_connection_with_config(config).await?;
        let masters = timeout(limit, masters(&mut connection)).await;
        let masters = masters.ok().and_then(Result::ok).unwrap_or_default();
        Ok(Self {
            connection,
            masters: Some(Arc::new(masters)),
        })
    }

    /// Whether a master has been replaced, or nobody here knows, so that it is better to ask those that the client knew at first.
    ///
    /// Slots that move between masters are none of it: the crate `redis` follows them.
    pub(super) async fn has_moved(&self, limit: Duration) -> bool {
        let Some(before) = &self.masters else {
            return false;
        };
        match timeout(limit, masters(&mut self.connection.clone())).await {
            Ok(Ok(now)) => before.is_empty() || before.iter().any(|master| !now.contains(master)),
            _ => true,
        }
    }
}

/// The address and the name of each node that serves slots, as the first to answer says. It may tell of replicas too, and of any
/// of them in another order than the next.
async fn masters(connection: &mut ClusterConnection) -> RedisResult<Vec<Value>> {
    let mut slots = cmd("CLUSTER");
    slots.arg("SLOTS");
    let all = MultipleNodeRoutingInfo::AllMasters;
    let route = RoutingInfo::MultiNode((all, Some(ResponsePolicy::OneSucceeded)));
    let answer = connection.route_command(slots, route).await?;
    // [first slot, last slot, [address, port, name, …], replicas…]
    let master = |range| match range {
        Value::Array(range) => match range.into_iter().nth(2) {
            Some(Value::Array(node)) => Some(Value::Array(node.into_iter().take(3).collect())),
            _ => None,
        },
        _ => None,
    };
    match answer.extract_error()? {
        Value::Array(ranges) => Ok(ranges.into_iter().filter_map(master).collect()),
        _ => Ok(Vec::new()),
    }
}
