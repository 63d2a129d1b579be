//! What a decision stands on: states, from memory or from the log, and what only the log knows.

use std::sync::Arc;

use aggregates::{Command, CommerceEvent, InventoryCommand, Kind, Offer, OrderCommand, PlaceOrder, Product, ProductId, State};
use event_store::{GENESIS, Hash, StreamId, StreamRead, StreamSlice};
use sagas::{Purchase, PurchaseEvent, purchase};
use uuid::Uuid;

use super::{Core, Failure, cascade::Cascade};
use crate::{EngineError, Versioned};

/// A shape that no snapshot has.
const NO_SHAPE: Hash = GENESIS;

impl<T> Core<T> {
    /// Looks up what a decision needs and only the log knows.
    pub(super) fn enrich(&mut self, cascade: &mut Cascade, command: Command) -> Result<Command, Failure> {
        match command {
            Command::Order(id, OrderCommand::Place(mut place)) => {
                self.offers(&mut place)?;
                cascade.numbered += 1;
                let count = self.open.orders_numbered + cascade.numbered;
                place.number = Some(
                    self.numbers
                        .number(count, place.at)
                        .map_err(|error| Failure::Broken(error.to_string()))?,
                );
                Ok(Command::Order(id, OrderCommand::Place(place)))
            }
            Command::Inventory(
                id,
                InventoryCommand::Reserve {
                    order,
                    quantity,
                    expected,
                    expires_at,
                    ..
                },
            ) => {
                let price = self.offer(id)?.map(|offer| offer.price);
                Ok(Command::Inventory(
                    id,
                    InventoryCommand::Reserve {
                        order,
                        quantity,
                        expected,
                        price,
                        expires_at,
                    },
                ))
            }
            Command::Order(order, OrderCommand::RequestCancellation { by, reason, .. }) => {
                self.load_purchase(order.uuid())?;
                let purchase = self.purchases.get(&order.uuid());
                let selling = purchase.is_some_and(|(purchase, _)| purchase.selling());
                Ok(Command::Order(order, OrderCommand::RequestCancellation { by, reason, selling }))
            }
            other => Ok(other),
        }
    }

    pub(super) fn offers(&mut self, place: &mut PlaceOrder) -> Result<(), Failure> {
        for line in &mut place.lines {
            line.offer = self.offer(line.product)?;
        }
        Ok(())
    }

    pub(super) fn offer(&mut self, product: ProductId) -> Result<Option<Offer>, Failure> {
        let state = self.load_or_fail(Kind::Product, product.uuid())?.state;
        let State::Product(product) = state else { return Ok(None) };
        Ok(match &*product {
            Product::Offered {
                seller,
                name,
                price,
                retired: false,
                ..
            } => Some(Offer {
                seller: *seller,
                name: name.clone(),
                price: *price,
            }),
            Product::Offered { .. } | Product::New => None,
        })
    }

    pub(super) fn load(&mut self, kind: Kind, id: Uuid) -> Result<Versioned, EngineError> {
        self.load_or_fail(kind, id).map_err(|failure| match failure {
            Failure::Unavailable(reason) | Failure::Broken(reason) => EngineError::Unavailable(reason),
            Failure::Refused(refusal) => EngineError::Unavailable(refusal.detail.into_owned()),
        })
    }

    /// An aggregate's state, from memory or from the log.
    pub(super) fn load_or_fail(&mut self, kind: Kind, id: Uuid) -> Result<Versioned, Failure> {
        if let Some((state, version)) = self.states.get(&(kind, id)) {
            return Ok(Versioned {
                version,
                state: state.clone(),
            });
        }
        let stream = StreamId::new(kind.name(), id);
        let slice = self.read_stream(&stream, shape(kind))?;
        let folded = fold(kind, id, &slice);
        let (state, version) = match folded {
            // A snapshot that cannot be read is no loss: the events are the truth.
            Err(_) if slice.snapshot.is_some() => fold(kind, id, &self.read_stream(&stream, NO_SHAPE)?)?,
            folded => folded?,
        };
        self.loaded(kind, id, state.clone(), version);
        Ok(Versioned { version, state })
    }

    /// Keeps what was read, as long as that is known to be true.
    pub(super) fn loaded(&mut self, kind: Kind, id: Uuid, state: State, version: u64) {
        self.states.loaded((kind, id), state, version, self.turn);
        if self.settings.others_read_anew && !self.is_here(kind, id) {
            self.foreign.push((kind, id));
        }
    }

    /// Has an order's process in memory.
    pub(super) fn load_purchase(&mut self, order: Uuid) -> Result<(), Failure> {
        if !self.purchases.contains(&order) {
            let (state, version) = self.fold_purchase(&StreamId::new(purchase::KIND, order))?;
            self.purchases.loaded(order, state, version, self.turn);
        }
        Ok(())
    }

    fn fold_purchase(&self, stream: &StreamId) -> Result<(Arc<Purchase>, u64), Failure> {
        let slice = self.read_stream(stream, purchase_shape())?;
        let snapshot = slice
            .snapshot
            .as_ref()
            .map(|snapshot| (serde_json::from_slice::<Purchase>(&snapshot.state), snapshot.sequence));
        let (mut state, mut version, events) = match snapshot {
            Some((Ok(state), sequence)) => (state, sequence, slice.events),
            Some((Err(_), _)) => (Purchase::default(), 0, self.read_stream(stream, NO_SHAPE)?.events),
            None => (Purchase::default(), 0, slice.events),
        };
        for event in events {
            let PurchaseEvent::Advanced { steps, .. } = serde_json::from_str(&event.payload)?;
            for step in &steps {
                state.evolve(aggregates::OrderId::new(stream.id), step);
            }
            version = event.sequence;
        }
        Ok((Arc::new(state), version))
    }

    pub(super) fn read_stream(&self, stream: &StreamId, shape: Hash) -> Result<StreamSlice, Failure> {
        let (_, mut slices) = self.reader.read(
            &[],
            &[StreamRead {
                stream: stream.clone(),
                shape,
            }],
        )?;
        Ok(slices.pop().unwrap_or_default())
    }
}

/// Names the shape of an aggregate's state: a snapshot of another shape is ignored.
pub(super) fn shape(kind: Kind) -> Hash {
    static SHAPES: std::sync::OnceLock<Vec<Hash>> = std::sync::OnceLock::new();
    let shapes = SHAPES.get_or_init(|| {
        let shape = |kind: &Kind| hash_shape(kind.name(), &kind.initial().to_json().unwrap_or_default());
        Kind::ALL.iter().map(shape).collect()
    });
    Kind::ALL
        .iter()
        .position(|known| *known == kind)
        .and_then(|index| shapes.get(index))
        .copied()
        .unwrap_or(NO_SHAPE)
}

pub(super) fn purchase_shape() -> Hash {
    static SHAPE: std::sync::OnceLock<Hash> = std::sync::OnceLock::new();
    *SHAPE.get_or_init(|| hash_shape(purchase::KIND, &serde_json::to_vec(&Purchase::default()).unwrap_or_default()))
}

/// The names of a state's members show in the JSON of its first value; what that does not show is counted here.
pub(super) fn hash_shape(kind: &str, initial: &[u8]) -> Hash {
    const REVISION: u32 = 4;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&REVISION.to_le_bytes()).update(kind.as_bytes()).update(initial);
    *hasher.finalize().as_bytes()
}

pub(super) fn fold(kind: Kind, id: Uuid, slice: &StreamSlice) -> Result<(State, u64), Failure> {
    let (mut state, mut version) = match &slice.snapshot {
        Some(snapshot) => (State::from_json(kind, &snapshot.state)?, snapshot.sequence),
        None => (kind.initial(), 0),
    };
    for event in &slice.events {
        let decoded = CommerceEvent::decode(kind.name(), id, &event.payload);
        let decoded = decoded.map_err(|_| {
            Failure::Broken(format!(
                "what stands at position {} is not an event of a {}",
                event.position,
                kind.name()
            ))
        })?;
        match decoded {
            Some(decoded) => state.evolve(&decoded),
            None => {
                return Err(Failure::Broken(format!(
                    "position {}: not an event of a {}",
                    event.position,
                    kind.name()
                )));
            }
        }
        version = event.sequence;
    }
    Ok((state, version))
}
