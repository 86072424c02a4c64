package router

// ring is a queue that grows to what it held at most and then allocates no more.
// The zero value is empty.
type ring[T any] struct {
	buf  []T
	head int
	n    int
}

func (r *ring[T]) len() int { return r.n }

func (r *ring[T]) at(i int) T { return r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring[T]) ref(i int) *T { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring[T]) push(v T) {
	if r.n == len(r.buf) {
		grown := make([]T, max(16, 2*len(r.buf))) // a power of two
		for i := range r.n {
			grown[i] = r.at(i)
		}
		r.buf, r.head = grown, 0
	}
	r.buf[(r.head+r.n)&(len(r.buf)-1)] = v
	r.n++
}

func (r *ring[T]) pop() T {
	var zero T
	v := r.buf[r.head]
	r.buf[r.head] = zero
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	return v
}

// keep removes the elements for which f is false, in place and in order.
func (r *ring[T]) keep(f func(i int, v *T) bool) {
	var zero T
	w := 0
	for i := range r.n {
		p := r.ref(i)
		if !f(i, p) {
			continue
		}
		if w != i {
			*r.ref(w) = *p
		}
		w++
	}
	for i := w; i < r.n; i++ {
		*r.ref(i) = zero
	}
	r.n = w
}
