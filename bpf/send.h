/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The state machine, outgoing: a datagram or a command meets its connection.
 * Pure, under the connection's lock.
 */
#ifndef MIMICD_SEND_H
#define MIMICD_SEND_H

enum send_action {
	SEND_DROP,
	SEND_NOTHING,       /* a command, which is carried out by now or no longer applies */
	SEND_HOLD,          /* to user space */
	SEND_HOLD_AND_OPEN, /* to user space, and `control` is the SYN */
	SEND_DATA,
	SEND_DATA_AND_PROBE,
	SEND_CONTROL,       /* the datagram is given up, `control` goes out in its place */
};

struct send_verdict {
	__u8 action;
	__u8 counter; /* enum counter: why it was dropped, or what `control` is */
	__u8 given_up; /* enum counter: why the datagram is lost that `control` takes the place of */
	__u8 state, role, reason; /* a state change to report, if reason is set */
	__u32 seq, ack;
	__u32 padding;
	__u16 window;
	struct control control;
	__u32 generation;
};

static __always_inline void verdict_drop(struct conn *c, struct send_verdict *v,
					 enum counter why, enum conn_drop which)
{
	conn_count_drop(c, which);
	v->action = SEND_DROP;
	v->counter = why;
}

static __always_inline void hold(struct conn *c, struct send_verdict *v)
{
	if (c->held - c->resent >= HELD_MAX) {
		verdict_drop(c, v, DROP_HELD_FULL, CONN_DROP_HELD_FULL);
		return;
	}
	c->held++;
	v->action = SEND_HOLD;
}

/*
 * Whether it stays behind those that user space still holds. Whoever sends faster than user space
 * would queue for ever, and every datagram take that way. So later ones overtake a full queue: that
 * 256 come late is better than that thousands do not come.
 */
static __always_inline int queues_behind(struct conn *c, __u64 now)
{
	if (c->held - c->resent >= HELD_MAX || elapsed_ns(now, c->state_since_ns) > DRAIN_TOTAL_NS)
		c->flags |= DRAIN_OVERTAKEN;
	return !(c->flags & DRAIN_OVERTAKEN);
}

/* The ring had no room for a datagram that was to be held. */
static __always_inline void conn_lost(struct conn *c, __u32 generation)
{
	if (c->generation != generation)
		return;
	c->resent++;
	c->drops[CONN_DROP_LOST]++;
}

/* Whether nothing was sent behind a probe that waits for its answer. */
static __always_inline int probe_repeats(const struct conn *c)
{
	return c->flags & PROBE_OUT && c->probe_seq + 1 == c->seq;
}

/* A probe consumes one byte of sequence space; repeated, it stands on the same byte. */
static __always_inline void window_probe(struct conn *c, struct control *out,
					 const struct rule *rule, int repeat, __u64 now)
{
	if (!repeat)
		c->probe_seq = c->seq++;
	c->flags |= PROBE_OUT;
	c->last_probe_ns = now;
	out->seq = c->probe_seq;
	out->ack = c->ack;
	out->flags = TCP_ACK;
	out->payload = 1;
	out->window = window_field(rule, c->window);
}

static __always_inline void send_established(struct conn *c, struct send_verdict *v,
					     const struct rule *rule, __u32 length,
					     int resent, __u64 now)
{
	__u32 payload;
	int probe;

	if (unlikely(c->flags & DRAINING)) {
		if (resent) {
			c->resent += c->resent != c->held;
			c->drain_until_ns = now + (c->resent == c->held ? DRAIN_SETTLE_NS : DRAIN_LIMIT_NS);
		} else if (now > c->drain_until_ns) {
			/* The daemon is gone, and what it held with it. */
			c->drops[CONN_DROP_LOST] += c->held - c->resent;
			c->resent = c->held;
			c->flags &= ~(DRAINING | DRAIN_OVERTAKEN);
		} else if (queues_behind(c, now)) {
			hold(c, v);
			return;
		}
	}
	v->padding = padding_of(rule, c->seq, c->ack);
	payload = length + v->padding;
	probe = c->peer_window < WINDOW_DEFAULT / 2 &&
		elapsed_ns(now, c->last_probe_ns) >= PROBE_INTERVAL_NS;
	if (unlikely(payload > c->peer_window)) {
		verdict_drop(c, v, DROP_WINDOW, CONN_DROP_WINDOW);
		if (probe) {
			v->given_up = v->counter;
			v->counter = COUNT_TX_PROBE;
			window_probe(c, &v->control, rule, probe_repeats(c), now);
			v->action = SEND_CONTROL;
		}
		return;
	}
	v->action = SEND_DATA;
	v->seq = c->seq;
	v->ack = c->ack;
	v->window = window_field(rule, c->window);
	c->seq += payload;
	c->peer_window -= payload;
	c->last_tx_ns = now;
	c->tx_packets++;
	c->tx_bytes += length;
	if (unlikely(probe)) {
		window_probe(c, &v->control, rule, 0, now);
		v->action = SEND_DATA_AND_PROBE;
	}
}

/* Whether the peer's SYN was answered a moment ago. */
static __always_inline int hint_is_fresh(const struct half_open *hint, __u64 now)
{
	return hint && elapsed_ns(now, hint->at_ns) < HALF_OPEN_NS;
}

/*
 * And that since the connection ended. Where the ACK did not come once, another SYN makes nobody
 * wait: else whoever forges one now and then could keep us from ever opening.
 */
static __always_inline int hint_counts(const struct conn *c, const struct half_open *hint, __u64 now)
{
	return hint_is_fresh(hint, now) && hint->at_ns > c->reset_ns && !(c->flags & HINT_FAILED);
}

/* The peer's SYN was answered a moment ago: wait for its ACK, not open as well. */
static __always_inline void conn_await_ack(struct conn *c, const struct half_open *hint, __u64 now)
{
	c->isn = hint->isn;
	c->seq = hint->isn + 1;
	c->peer_isn = hint->peer_isn;
	c->ack = hint->ack;
	c->peer_wscale = hint->peer_wscale;
	c->peer_mss = hint->peer_mss;
	c->state = SYN_RECEIVED;
	c->role = RESPONDER;
	c->state_since_ns = now;
}

/*
 * Whether the SYN, ready now, may still leave. The peer's own may have been answered on
 * another CPU meanwhile, and a SYN behind that answer is what firewalls refuse.
 */
static __always_inline int conn_still_opens(struct conn *c, __u32 generation,
					    const struct half_open *hint, __u64 now)
{
	if (c->generation != generation || c->state != SYN_SENT)
		return 0;
	if (c->flags & CROSSED || !hint_counts(c, hint, now))
		return 1;
	conn_await_ack(c, hint, now);
	return 0;
}

static __always_inline void send_idle(struct conn *c, struct send_verdict *v,
				      const struct rule *rule, const struct half_open *hint,
				      __u32 random, __u64 now)
{
	__u64 since = c->last_rx_ns > c->reset_ns ? c->last_rx_ns : c->reset_ns;

	if (hint_counts(c, hint, now)) {
		conn_await_ack(c, hint, now);
		c->generation++;
		v->reason = REASON_OPENED;
		hold(c, v);
		return;
	}
	if (!rule->handshake_interval_s) {
		verdict_drop(c, v, DROP_PASSIVE, CONN_DROP_PASSIVE);
		return;
	}
	if (c->cooldown_step && elapsed_ns(now, since) < cooldown_ns(c)) {
		verdict_drop(c, v, DROP_COOLDOWN, CONN_DROP_COOLDOWN);
		return;
	}
	conn_open(c, random, now);
	hold(c, v);
	v->action = SEND_HOLD_AND_OPEN;
	v->reason = REASON_OPENED;
	v->control.seq = c->isn;
	v->control.flags = TCP_SYN;
	v->control.window = WINDOW_OF_SYN;
}

/* A datagram of `length` bytes of payload wants to leave. */
static __always_inline void conn_send(struct conn *c, struct send_verdict *v,
				      const struct rule *rule, const struct half_open *hint,
				      __u32 length, int resent, __u32 random, __u64 now)
{
	if (likely(c->state == ESTABLISHED)) {
		send_established(c, v, rule, length, resent, now);
	} else if (resent) {
		/* It belonged to a handshake that has ended meanwhile. */
		verdict_drop(c, v, DROP_RESEND_LATE, CONN_DROP_LOST);
	} else if (c->state == IDLE) {
		send_idle(c, v, rule, hint, random, now);
	} else {
		hold(c, v);
	}
	v->state = c->state;
	v->role = c->role;
	v->generation = c->generation;
}

/* User space asks for a control segment; what no longer applies is refused. */
static __always_inline void conn_command(struct conn *c, struct send_verdict *v,
					 const struct rule *rule, const struct command *cmd, __u64 now)
{
	struct control *out = &v->control;

	v->action = SEND_NOTHING;
	v->counter = DROP_STALE_COMMAND;
	if (cmd->generation != c->generation || c->state == IDLE)
		return;
	out->ack = c->ack;
	out->window = window_field(rule, c->window);
	if (cmd->operation == COMMAND_SYN)
		c->flags &= ~CROSS_PENDING;
	if (cmd->operation == COMMAND_SYN && c->state == SYN_SENT) {
		out->seq = c->isn;
		out->ack = 0;
		out->flags = TCP_SYN;
		out->window = WINDOW_OF_SYN;
		v->counter = COUNT_TX_SYN;
	} else if (cmd->operation == COMMAND_SYN && c->state == SYN_RECEIVED && c->flags & CROSSED) {
		out->seq = c->isn;
		out->flags = TCP_SYN | TCP_ACK;
		out->window = WINDOW_OF_SYN;
		v->counter = COUNT_TX_SYN_ACK;
	} else if (cmd->operation == COMMAND_KEEPALIVE && c->state == ESTABLISHED) {
		c->flags |= KEEPALIVE_OUT;
		out->seq = c->seq - 1;
		out->flags = TCP_ACK;
		v->counter = COUNT_TX_KEEPALIVE;
	} else if (cmd->operation == COMMAND_PROBE && c->state == ESTABLISHED) {
		window_probe(c, out, rule, probe_repeats(c), now);
		v->counter = COUNT_TX_PROBE;
	} else if (cmd->operation == COMMAND_RESET) {
		out->seq = c->seq;
		out->flags = c->ack ? TCP_RST | TCP_ACK : TCP_RST;
		out->window = 0;
		v->counter = COUNT_TX_RST;
		v->reason = cmd->argument;
		conn_reset(c, cmd->argument, now);
	} else if (cmd->operation == COMMAND_RELEASE) {
		u32 held = c->held - c->resent, lost = cmd->argument < held ? cmd->argument : held;

		/* user space counts from an earlier look: no more than are held now */
		c->resent += lost;
		c->drops[CONN_DROP_LOST] += lost;
		v->counter = DROP_LOST_HELD;
		return;
	} else if (cmd->operation == COMMAND_DRAINED) {
		/* what was held meanwhile is sent first, and asked for after that */
		if (c->resent == c->held)
			c->flags &= ~(DRAINING | DRAIN_OVERTAKEN);
		v->counter = COUNT_DRAINED;
		return;
	} else {
		return;
	}
	c->last_tx_ns = now;
	v->action = SEND_CONTROL;
	v->state = c->state;
	v->role = c->role;
	v->generation = c->generation;
}

#endif
