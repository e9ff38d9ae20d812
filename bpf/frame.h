/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A received frame, seen by XDP or (RECEIVE_ON_TC) by TC ingress. The code that
 * receives is the same for both; here stands what differs.
 */
#ifndef MIMICD_FRAME_H
#define MIMICD_FRAME_H

/*
 * The kernel refuses to move the end of what a tunnel left (VXLAN: skb->encapsulation).
 * What stands behind the fixed IP header is moved instead, and has to be written anew.
 */
#define NOT_SUPPORTED (-524)

static __always_inline int skb_resize(struct __sk_buff *skb, __u32 size)
{
	int failed = bpf_skb_change_tail(skb, size, 0);

	if (failed != NOT_SUPPORTED)
		return failed;
	return bpf_skb_adjust_room(skb, (__s32)size - (__s32)skb->len, BPF_ADJ_ROOM_NET,
				   BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

/* Where a VLAN tag stands in a frame: EtherType and TCI. */
#define TAG_AT 12
#define TAG_BYTES 4

/* The tag that the kernel keeps beside the frame, as it would stand in it; 0: none. */
static __always_inline __u32 skb_tag(struct __sk_buff *skb)
{
	if (!skb->vlan_present)
		return 0;
	return skb->vlan_proto | (__u32)bpf_htons(skb->vlan_tci) << 16;
}

static __always_inline void tag_store(void *to, __u32 tag)
{
	__be16 *half = to;

	half[0] = tag;
	half[1] = tag >> 16;
}

/*
 * Frames that user space sends to the peer will begin like this one, `l2`, and carry its tag.
 * Calls no helper: the connection is locked.
 */
static __always_inline void link_header_keep(struct conn *c, const struct packet *p, const __u8 *l2,
					     __u32 tag)
{
	__u32 length = L2_LEN ? p->l3 : 0;

	if (!L2_LEN || !tag || length > L2_MAX - TAG_BYTES) {
		__builtin_memcpy(c->l2, l2, L2_MAX);
	} else {
		__builtin_memcpy(c->l2, l2, TAG_AT);
		tag_store(c->l2 + TAG_AT, tag);
		__builtin_memcpy(c->l2 + TAG_AT + TAG_BYTES, l2 + TAG_AT, L2_MAX - TAG_AT - TAG_BYTES);
		length += TAG_BYTES;
	}
	c->l2_len = length;
}

#ifdef RECEIVE_ON_TC

typedef struct __sk_buff frame;

#define FRAME_PASS TC_ACT_UNSPEC
#define FRAME_DROP TC_ACT_SHOT

/* GRO has merged segments of a peer that does not set PSH. */
static __always_inline int frame_is_merged(frame *f)
{
	return f->gso_size != 0;
}

static __always_inline int frame_has_link(frame *f, __u32 ifindex)
{
	return f->ifindex != ifindex;
}

static __always_inline __u32 frame_tag(frame *f)
{
	return skb_tag(f);
}

static __always_inline int frame_load(frame *f, __u32 at, void *to, __u32 length)
{
	return bpf_skb_load_bytes(f, at, to, length);
}

/* A checksum that the NIC computed over the whole frame has to stay true. */
static __always_inline int frame_store(frame *f, __u32 at, void *from, __u32 length)
{
	return bpf_skb_store_bytes(f, at, from, length, BPF_F_RECOMPUTE_CSUM);
}

/* The same after words were written without a helper: by what their sum has changed. */
static __always_inline void frame_csum_add(frame *f, __u64 difference)
{
	bpf_csum_update(f, csum_fold64(difference));
}

static __always_inline __u32 frame_size(frame *f)
{
	return f->len;
}

static __always_inline __u32 frame_total(frame *f)
{
	return f->len;
}

static __always_inline int frame_resize(frame *f, __u32 size)
{
	return f->len == size ? 0 : skb_resize(f, size);
}

/*
 * What stands behind a datagram is left to the IP layer, which trims it for less than a
 * helper costs.
 */
static __always_inline int frame_trim(frame *f, __u32 size)
{
	return 0;
}

#else

typedef struct xdp_md frame;

#define FRAME_PASS XDP_PASS
#define FRAME_DROP XDP_DROP

/* XDP comes before GRO. */
static __always_inline int frame_is_merged(frame *f)
{
	return 0;
}

static __always_inline int frame_has_link(frame *f, __u32 ifindex)
{
	return 0;
}

/* A tag that was taken out of the frame before XDP cannot be seen from there. */
static __always_inline __u32 frame_tag(frame *f)
{
	return 0;
}

static __always_inline int frame_load(frame *f, __u32 at, void *to, __u32 length)
{
	return bpf_xdp_load_bytes(f, at, to, length);
}

static __always_inline int frame_store(frame *f, __u32 at, void *from, __u32 length)
{
	return bpf_xdp_store_bytes(f, at, from, length);
}

static __always_inline void frame_csum_add(frame *f, __u64 difference)
{
}

/* Of a frame in several buffers: the first one's. */
static __always_inline __u32 frame_size(frame *f)
{
	return f->data_end - f->data;
}

static __always_inline __u32 frame_total(frame *f)
{
	return bpf_xdp_get_buff_len(f);
}

static __always_inline int frame_resize(frame *f, __u32 size)
{
	int change = (int)size - (int)frame_size(f);

	/* of a frame in several buffers it would cut the last one */
	if (frame_total(f) != frame_size(f))
		return 0;
	return change ? bpf_xdp_adjust_tail(f, change) : 0;
}

static __always_inline int frame_trim(frame *f, __u32 size)
{
	return frame_resize(f, size);
}

#endif

#endif
