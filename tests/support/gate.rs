//! Gates: calls wait at them until a test lets them go.

use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, watch};

/// A place that calls pass, and where a test can put up a gate.
#[derive(Default)]
pub(super) struct Gateway(Mutex<Option<Arc<Hold>>>);

impl Gateway {
    pub(super) fn close(&self) -> Gate {
        let hold = Arc::new(Hold {
            arrived: watch::Sender::new(0),
            turns: Semaphore::new(0),
        });
        *self.0.lock().unwrap() = Some(hold.clone());
        Gate(hold)
    }

    pub(super) async fn pass(&self) {
        let hold = self.0.lock().unwrap().clone();
        let Some(hold) = hold else { return };
        hold.arrived.send_modify(|arrived| *arrived += 1);
        // An error means that the semaphore is closed: the gate is open.
        if let Ok(turn) = hold.turns.acquire().await {
            turn.forget();
        }
    }
}

struct Hold {
    arrived: watch::Sender<usize>,
    turns: Semaphore,
}

/// Holds calls back until it is opened or dropped.
pub struct Gate(Arc<Hold>);

impl Gate {
    /// Waits until `n` calls have come to the gate since it was put up.
    pub async fn arrived(&self, n: usize) {
        let mut arrived = self.0.arrived.subscribe();
        let enough = arrived.wait_for(|arrived| *arrived >= n).await;
        enough.expect("the gate is here");
    }

    /// Lets `n` calls through, in the order in which they came.
    pub fn let_through(&self, n: usize) {
        self.0.turns.add_permits(n);
    }

    /// Lets all calls through from now on.
    pub fn open(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.turns.close();
    }
}
