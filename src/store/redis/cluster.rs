//! A connection to a cluster, which can tell whether another one would lead elsewhere.
//!
//! Workaround for `redis` 1.8: it learns that another node has taken over only from what nodes answer, so not from a node that hangs. To report
//! there: after a timeout, ask the other nodes for the slots.
//!
//! Limit of `redis` 1.8: it sends any command again when a connection is lost, so a swap may return false although its first run was successful.
//! To report there: let a program mark commands that must not be sent twice.

use std::sync::Arc;
use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::{RedisResult, Value, cmd};
use tokio::time::timeout;

#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) connection: ClusterConnection,
    /// The nodes that served slots when the connection was made. Empty if that could not be known.
    masters: Arc<Vec<Value>>,
}

impl Cluster {
    pub(super) async fn connect(client: &ClusterClient, limit: Duration) -> RedisResult<Self> {
        // Workaround for `redis` 1.8: while it asks a node that hangs for the slots, it holds back the commands for all nodes. So it must give up
        // well before the commands do. To report there: go on with the commands for other nodes meanwhile.
        let limit = limit / 2;
        let config = ClusterConfig::new().set_response_timeout(limit);
        let mut connection = client.get_async_connection_with_config(config).await?;
        let masters = timeout(limit, masters(&mut connection)).await;
        let masters = masters.ok().and_then(Result::ok).unwrap_or_default();
        Ok(Self {
            connection,
            masters: Arc::new(masters),
        })
    }

    /// Whether a master has been replaced, or no node answers, so that it is better to ask the nodes that the client was given.
    ///
    /// Slots that move between masters don't count: the crate `redis` follows them.
    pub(super) async fn has_moved(&mut self, limit: Duration) -> bool {
        match timeout(limit, masters(&mut self.connection)).await {
            Ok(Ok(now)) => {
                let before = &*self.masters;
                before.is_empty() || before.iter().any(|master| !now.contains(master))
            }
            _ => true,
        }
    }
}

/// The address and the name of each node that serves slots, from the first node to answer. Other nodes may list them in another order, and with
/// other replicas.
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
