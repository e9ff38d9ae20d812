/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The state machine, incoming: a segment meets its connection (or an idle entry).
 * Pure, under the connection's lock. docs/state-machine.md is the same as a table.
 */
#ifndef MIMICD_RECEIVE_H
#define MIMICD_RECEIVE_H

struct receive_verdict {
	__u8 deliver;  /* restore the datagram and pass it on */
	__u8 counter;  /* enum counter: what it was, or why it was dropped */
	__u8 reason;   /* a state change to report, if set */
	__u8 limited;  /* the answer is one of those that are rate-limited */
	__u8 answered_syn; /* `control` is a stateless SYN+ACK */
	__u8 syn_wscale;   /* window scale that a SYN or SYN+ACK of ours offers */
	__u8 state, role;
	__u32 padding;
	__u32 generation;
	struct control control;
};

static __always_inline void answer(struct receive_verdict *v, __u8 flags, __u32 seq, __u32 ack,
				   __u16 window)
{
	v->control.flags = flags;
	v->control.seq = seq;
	v->control.ack = ack;
	v->control.window = window;
}

static __always_inline void answer_ack(struct conn *c, struct receive_verdict *v,
				       const struct rule *rule)
{
	answer(v, TCP_ACK, c->seq, c->ack, window_field(rule, c->window));
}

static __always_inline void receive_drop(struct conn *c, struct receive_verdict *v, enum counter why)
{
	conn_count_drop(c, CONN_DROP_RECEIVED);
	v->counter = why;
}

/* A segment that belongs to nothing: RFC 9293 section 3.10.7.1. */
static __always_inline void receive_stray(const struct segment *s, struct receive_verdict *v)
{
	v->counter = DROP_RX_NO_CONNECTION;
	if (s->flags & (TCP_RST | TCP_FIN) || !(s->flags & TCP_ACK))
		return;
	answer(v, TCP_RST, s->ack, 0, 0);
	v->limited = 1;
}

/* A SYN is answered without keeping anything but a hint; the ACK will prove it. */
static __always_inline void receive_syn(const struct segment *s, struct receive_verdict *v)
{
	v->counter = COUNT_RX_SYN;
	v->answered_syn = 1;
	answer(v, TCP_SYN | TCP_ACK, s->cookie, s->seq + 1 + s->length, WINDOW_OF_SYN);
}

/* The RST frame itself becomes the new SYN: a restarted side met the other's old connection. */
static __always_inline void reopen(struct conn *c, struct receive_verdict *v, __u32 random, __u64 now)
{
	__u8 keep = c->flags & FLAGS_KEPT;

	conn_open(c, random, now);
	c->flags = keep | RETRIED;
	answer(v, TCP_SYN, c->isn, 0, WINDOW_OF_SYN);
	v->reason = REASON_OPENED;
}

static __always_inline void receive_reset(struct conn *c, const struct segment *s,
					  struct receive_verdict *v, const struct rule *rule,
					  __u32 random, __u64 now)
{
	if (!reset_acceptable(c, s, rule)) {
		receive_drop(c, v, DROP_RX_RESET);
		return;
	}
	v->counter = COUNT_RX_RST;
	c->last_rx_ns = now;
	if (c->state != SYN_SENT && c->flags & CROSSED)
		c->flags |= CROSS_SILENTLY;
	if (c->state != ESTABLISHED && c->role == INITIATOR && !(c->flags & RETRIED)) {
		reopen(c, v, random, now);
		return;
	}
	conn_reset(c, REASON_RESET_BY_PEER, now);
	v->reason = REASON_RESET_BY_PEER;
}

static __always_inline void receive_fin(struct conn *c, const struct segment *s,
					struct receive_verdict *v, const struct rule *rule, __u64 now)
{
	if (c->state < SYN_RECEIVED || s->seq - c->ack >= window_full(rule)) {
		receive_drop(c, v, DROP_RX_UNEXPECTED);
		return;
	}
	v->counter = COUNT_RX_FIN;
	c->last_rx_ns = now;
	answer(v, TCP_RST | TCP_ACK, c->seq, s->seq + s->length + 1, 0);
	conn_reset(c, REASON_CLOSED_BY_PEER, now);
	v->reason = REASON_CLOSED_BY_PEER;
}

/*
 * RFC 9293 section 3.5, figure 8, but only one end answers: a stateful firewall follows that.
 * User space asks for the answer a moment later. Our own SYN may still be on its way through
 * another CPU, and a firewall takes no SYN behind a SYN+ACK.
 */
static __always_inline void receive_crossing(struct conn *c, const struct segment *s,
					     struct receive_verdict *v, __u64 now)
{
	v->counter = COUNT_RX_SYN;
	/* told once, however often the peer repeats it */
	if (!(c->flags & CROSSED))
		v->reason = REASON_CROSSED;
	c->last_rx_ns = now;
	c->peer_isn = s->seq;
	c->ack = s->seq + 1 + s->length;
	c->peer_wscale = s->wscale;
	c->peer_mss = s->mss;
	c->flags |= CROSSED | CROSS_PENDING;
	if (s->we_are_higher || c->flags & CROSS_SILENTLY)
		return;
	c->state = SYN_RECEIVED;
}

/* A SYN was answered without looking back; a datagram opened the connection meanwhile. */
static __always_inline void conn_crossed(struct conn *c, const struct segment *s,
					 struct receive_verdict *v, __u64 now)
{
	if (c->state != SYN_SENT)
		return;
	v->control.flags = 0;
	receive_crossing(c, s, v, now);
	v->state = c->state;
	v->role = c->role;
	v->generation = c->generation;
}

static __always_inline void established(struct conn *c, struct receive_verdict *v,
					const struct rule *rule, __u64 now)
{
	conn_establish(c, rule, now);
	v->reason = REASON_ESTABLISHED;
	answer_ack(c, v, rule);
}

/* A SYN+ACK or a crossing SYN: nothing of ours to deliver. */
static __always_inline void receive_syn_any(struct conn *c, const struct segment *s,
					    struct receive_verdict *v, const struct rule *rule, __u64 now)
{
	int with_ack = s->flags & TCP_ACK;

	/*
	 * Not even a responder that waits for the ACK takes another SYN for its peer's: the ACK
	 * tells which of them was meant.
	 */
	if (!with_ack && (c->state == IDLE ||
			  (s->seq != c->peer_isn && (c->state == ESTABLISHED ||
			   (c->state == SYN_RECEIVED && c->role == RESPONDER))))) {
		c->syn_answered_ns = now;
		receive_syn(s, v);
		return;
	}
	v->counter = with_ack ? COUNT_RX_SYN_ACK : COUNT_RX_SYN;
	if (c->state == ESTABLISHED) {
		c->last_rx_ns = now;
		/* mimic repeats its SYN+ACK with a growing seq, and counts on from the last one */
		if (with_ack && c->role == INITIATOR && s->ack == c->isn + 1 &&
		    c->last_active_ns == c->state_since_ns)
			c->ack = s->seq + 1;
		answer_ack(c, v, rule);
		return;
	}
	if (!with_ack) {
		if (c->state == SYN_SENT) {
			receive_crossing(c, s, v, now);
			return;
		}
		c->last_rx_ns = now;
		c->flags &= ~CROSS_PENDING;
		c->peer_isn = s->seq;
		c->ack = s->seq + 1 + s->length;
		c->peer_wscale = s->wscale;
		c->peer_mss = s->mss;
		answer(v, TCP_SYN | TCP_ACK, c->isn, c->ack, WINDOW_OF_SYN);
		return;
	}
	if (s->ack != c->seq) {
		conn_count_drop(c, CONN_DROP_RECEIVED);
		receive_stray(s, v);
		v->counter = DROP_RX_ACK;
		return;
	}
	c->peer_isn = s->seq;
	c->ack = s->seq + 1 + s->length;
	c->peer_wscale = s->wscale;
	c->peer_mss = s->mss;
	c->peer_window = s->window; /* RFC 7323 section 2.2: never scaled in a SYN */
	established(c, v, rule, now);
}

/* The ACK that proves a stateless SYN+ACK: it makes, or replaces, the connection. */
static __always_inline void adopt_proven(struct conn *c, const struct segment *s,
					 struct receive_verdict *v, const struct rule *rule,
					 const struct half_open *hint, __u64 now)
{
	__u8 again = c->state == ESTABLISHED;

	c->generation++;
	c->role = RESPONDER;
	c->isn = s->ack - 1;
	c->seq = s->ack;
	c->peer_isn = s->seq - 1;
	c->ack = s->seq;
	c->peer_wscale = s->proven_wscale;
	c->peer_mss = 0;
	if (hint && hint->isn == c->isn) {
		c->peer_isn = hint->peer_isn;
		c->peer_mss = hint->peer_mss;
	}
	established(c, v, rule, now);
	if (again)
		v->reason = REASON_RESTARTED_BY_PEER;
}

/*
 * Whatever comes is delivered, in the order of arrival. But the peer sends nothing outside
 * the window, so a single segment from there, which anybody can send, does not move it; one
 * that goes on from there, or comes again, does.
 */
static __always_inline void take_ack(struct conn *c, const struct segment *s, const struct rule *rule)
{
	__u32 next = s->seq + s->length, full = window_full(rule);

	if (s->seq - c->ack + full <= 2 * full || s->seq == c->stray_next || next == c->stray_next)
		c->ack = next;
	else
		c->stray_next = next;
}

static __always_inline void receive_data(struct conn *c, const struct segment *s,
					 struct receive_verdict *v, const struct rule *rule,
					 __u32 random, __u64 now)
{
	__u32 full = window_full(rule);
	__u32 bound = full / 4 + random % (full / 4);

	v->padding = padding_of(rule, s->seq, s->ack);
	if (s->length < v->padding) {
		receive_drop(c, v, DROP_RX_SHORT);
		return;
	}
	v->counter = COUNT_RX_DATA;
	v->deliver = 1;
	c->flags &= ~CROSSED;
	c->last_active_ns = now;
	take_ack(c, s, rule);
	c->rx_packets++;
	c->rx_bytes += s->length - v->padding;
	if (c->window <= bound) {
		c->window = full - s->length;
		answer_ack(c, v, rule);
	} else {
		c->window -= s->length;
		if (v->control.flags) /* the ACK that establishes speaks of this segment too */
			answer_ack(c, v, rule);
	}
}

/*
 * It acknowledges what was never sent: forged data moved what the peer expects. RFC 9293 section
 * 3.10.7.4 answers by an ACK; here only data and probes move that, so a probe puts it right.
 */
static __always_inline void receive_ahead(struct conn *c, const struct segment *s,
					  struct receive_verdict *v, const struct rule *rule, __u64 now)
{
	receive_drop(c, v, DROP_RX_ACK);
	if (s->length)
		take_ack(c, s, rule);
	if (elapsed_ns(now, c->last_probe_ns) >= PROBE_INTERVAL_NS)
		window_probe(c, &v->control, rule, probe_repeats(c), now);
}

/* Segments of an established connection, tested in the order that mimic tests them. */
static __always_inline void receive_established(struct conn *c, const struct segment *s,
						struct receive_verdict *v, const struct rule *rule,
						__u32 random, __u64 now)
{
	__u8 keepalive_out = c->flags & KEEPALIVE_OUT;
	__u8 answers_probe = c->flags & PROBE_OUT && s->ack == c->probe_seq + 1;
	__u8 ahead = seq_before(c->seq, s->ack);
	__u32 edge;

	c->last_rx_ns = now;
	c->flags &= ~KEEPALIVE_OUT;
	if (!ahead && c->flags & PROBE_OUT && !seq_before(s->ack, c->probe_seq + 1))
		c->flags &= ~PROBE_OUT;
	if (!ahead && (answers_probe || s->seq - c->ack <= window_full(rule))) {
		/*
		 * Only a segment in the window speaks of the peer's, or one that only who saw
		 * our probe can send: forged data may have moved our ack away from the peer.
		 * What lies between its ack and our next seq is on the way and counts.
		 */
		edge = s->ack + ((__u32)s->window << c->peer_wscale);
		c->peer_window = seq_before(edge, c->seq) ? 0 : edge - c->seq;
	}
	if (likely(s->flags & TCP_PSH)) {
		receive_data(c, s, v, rule, random, now);
	} else if (ahead && s->length < 2) {
		receive_ahead(c, s, v, rule, now);
	} else if (s->seq == c->ack - 1 && s->length < 2) {
		v->counter = COUNT_RX_KEEPALIVE;
		answer_ack(c, v, rule);
	} else if (s->length == 0) {
		v->counter = COUNT_RX_ACK;
		if (!keepalive_out)
			c->last_active_ns = now;
	} else if (s->length == 1) {
		v->counter = COUNT_RX_PROBE;
		c->last_active_ns = now;
		take_ack(c, s, rule);
		c->window = window_full(rule);
		answer_ack(c, v, rule);
	} else {
		receive_data(c, s, v, rule, random, now);
	}
}

static __always_inline void receive_ack(struct conn *c, const struct segment *s,
					struct receive_verdict *v, const struct rule *rule,
					const struct half_open *hint, __u32 random, __u64 now)
{
	if (c->state == SYN_SENT && c->flags & CROSSED && s->ack == c->seq) {
		/*
		 * mimic answers a crossing SYN by ACK. Our ACK would make that a handshake for
		 * the two ends, but not for a stateful firewall; the SYN again, which mimic
		 * answers by SYN+ACK, does for all.
		 */
		v->counter = COUNT_RX_ACK;
		c->last_rx_ns = now;
		c->flags &= ~CROSS_PENDING;
		answer(v, TCP_SYN, c->isn, 0, WINDOW_OF_SYN);
		return;
	}
	if (s->proves && (c->state != ESTABLISHED || s->ack != c->isn + 1)) {
		/* also where the entry waits for just this ACK: only what it proves is true */
		adopt_proven(c, s, v, rule, hint, now);
	} else if (c->state == SYN_RECEIVED && s->ack == c->seq && !(c->flags & CROSS_PENDING)) {
		/* before our SYN+ACK it is mimic's answer to our SYN, and no handshake to a firewall */
		c->peer_window = (__u32)s->window << c->peer_wscale;
		established(c, v, rule, now);
	} else if (c->state != ESTABLISHED) {
		receive_drop(c, v, DROP_RX_UNEXPECTED);
		return;
	}
	receive_established(c, s, v, rule, random, now);
}

static __always_inline void conn_receive(struct conn *c, const struct segment *s,
					 struct receive_verdict *v, const struct rule *rule,
					 const struct half_open *hint, __u32 random, __u64 now)
{
	v->syn_wscale = wscale_of(rule);
	/* An idle entry is as good as none: only a SYN, or the ACK that proves one, counts. */
	if (c->state == IDLE && !s->proves && (s->flags & (TCP_RST | TCP_SYN | TCP_ACK)) != TCP_SYN)
		receive_stray(s, v);
	else if (s->flags & TCP_RST)
		receive_reset(c, s, v, rule, random, now);
	else if (s->flags & TCP_SYN)
		receive_syn_any(c, s, v, rule, now);
	else if (s->flags & TCP_FIN)
		receive_fin(c, s, v, rule, now);
	else if (s->flags & TCP_ACK)
		receive_ack(c, s, v, rule, hint, random, now);
	else
		receive_drop(c, v, DROP_RX_FLAGS);
	v->state = c->state;
	v->role = c->role;
	v->generation = c->generation;
}

#endif
