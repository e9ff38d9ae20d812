// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receiving on XDP. It cannot send on veth whose peer has no XDP program, nor make two
 * packets of one; so it leaves a note in front of the frame, and TC ingress does both.
 */

/*
 * In front of the frame, from XDP to TC ingress; nothing on the wire can set it. But an
 * skb that we send back keeps it, and may come in at another interface of this kernel
 * (veth): so the magic is mixed with a mark that is random for each interface.
 */
struct reply_note {
	u32 magic;
	struct control control; /* NOTE_DELIVER_AND_REPLY: the segment to send */
#define reply_size control.seq /* NOTE_REPLY: where a frame in several buffers is to end */
	u8 options[SYN_OPTIONS]; /* NOTE_APPEND_AND_REPLY: what the frame has to end with */
};
#define NOTE_REPLY 0x6d6d0001
#define NOTE_DELIVER_AND_REPLY 0x6d6d0002
#define NOTE_APPEND_AND_REPLY 0x6d6d0003

static __always_inline struct reply_note *note_make(frame *f, const struct config *cfg, u32 magic)
{
	struct reply_note *note;
	void *data;

	if (bpf_xdp_adjust_meta(f, -(int)sizeof(*note)))
		return 0;
	data = (void *)(long)f->data;
	note = (void *)(long)f->data_meta;
	if ((void *)(note + 1) > data)
		return 0;
	__builtin_memset(note, 0, sizeof(*note));
	note->magic = magic ^ cfg->deliver_mark;
	return note;
}

/* `missing`: the options of a SYN did not fit the frame. `size`: of the whole answer. */
static __always_inline int frame_send_back(frame *f, const struct config *cfg, const u8 *options,
					   int missing, u32 size)
{
	struct reply_note *note = note_make(f, cfg, missing ? NOTE_APPEND_AND_REPLY : NOTE_REPLY);

	if (!note) /* a driver without metadata may still have a working XDP_TX */
		return missing ? receive_dropped(DROP_RX_REWRITE) : XDP_TX;
	if (missing)
		__builtin_memcpy(note->options, options, SYN_OPTIONS);
	else
		note->reply_size = size;
	return XDP_PASS;
}

static __always_inline int frame_deliver(frame *f, const struct config *cfg)
{
	return XDP_PASS;
}

static __always_inline int frame_split(frame *f, const struct config *cfg, const struct packet *p)
{
	return XDP_DROP; /* never: see frame_is_merged() */
}

/* Without a note the datagram still arrives; the next segment restores the window. */
static __always_inline int frame_deliver_and_reply(frame *f, const struct config *cfg,
						   const struct control *c)
{
	struct reply_note *note = note_make(f, cfg, NOTE_DELIVER_AND_REPLY);

	if (note)
		note->control = *c;
	return XDP_PASS;
}

/* TCP options stand between the header and the data: the headers move up to them. */
static __always_inline int frame_skip_options(frame *f, const struct packet *p, u32 options,
					      struct receive_buffer *b)
{
	u64 length = p->l4;

	barrier_var(length);
	if (length < 20 || length > HEADERS_MAX)
		return -1;
	if (frame_load(f, 0, b->head, length) || bpf_xdp_adjust_head(f, options))
		return -1;
	return frame_store(f, 0, b->head, length);
}

static __always_inline int receive(frame *f);

int mimic_ingress(struct xdp_md *ctx)
{
	return receive(ctx);
}

/* TC ingress. Reads the note before anything could move the frame, and writes by helpers only. */
int mimic_reply(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	struct reply_note *note = (void *)(long)skb->data_meta;
	void *data = (void *)(long)skb->data;
	u8 options[SYN_OPTIONS];
	u32 length = skb->len, magic;
	struct control c;

	if (!cfg)
		return TC_ACT_UNSPEC;
	if (cfg->deliver_mark && skb->mark == cfg->deliver_mark) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if ((void *)(note + 1) > data)
		return TC_ACT_UNSPEC;
	magic = note->magic ^ cfg->deliver_mark;
	if (magic == NOTE_REPLY) {
		u32 size = note->reply_size;

		if (size < length && bpf_skb_change_tail(skb, size, 0))
			return drop(DROP_REWRITE);
		return bpf_redirect(cfg->ifindex, 0);
	}
	if (magic == NOTE_APPEND_AND_REPLY) {
		__builtin_memcpy(options, note->options, SYN_OPTIONS);
		if (bpf_skb_change_tail(skb, length + SYN_OPTIONS, 0) ||
		    bpf_skb_store_bytes(skb, length, options, SYN_OPTIONS, 0))
			return drop(DROP_REWRITE);
		return bpf_redirect(cfg->ifindex, 0);
	}
	if (magic != NOTE_DELIVER_AND_REPLY)
		return TC_ACT_UNSPEC;
	c = note->control;
	return deliver_and_reply(skb, cfg, &c);
}
