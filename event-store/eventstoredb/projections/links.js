// Links each event of a log to a stream of its aggregate (order-0197..., payment-0197...), for others to read.
//
// A batch counts from the entry that closes it: until then its events only wait. What is never closed is never linked.
fromCategory('jangbu')
    .foreachStream()
    .when({
        $init: function () {
            return { batch: null, waiting: [] };
        },
        $any: function (state, event) {
            var about = event.metadata;
            if (!about || !about.batch) {
                return state;
            }
            if (about.batch !== state.batch) {
                state.batch = about.batch;
                state.waiting = [];
            }
            if (event.eventType === 'jangbu-batch') {
                state.waiting.forEach(function (wanted) {
                    linkTo(wanted.to, { streamId: event.streamId, sequenceNumber: wanted.revision });
                });
                state.batch = null;
                state.waiting = [];
            } else if (about.kind) {
                state.waiting.push({ to: about.kind + '-' + about.id, revision: event.sequenceNumber });
            }
            return state;
        }
    });
