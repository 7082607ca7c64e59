#include "table.h"

enum { FEWEST = 256, MOST = 8192 };

typedef struct {
    Identity identity;
    PyObject *kept, *also_kept; /* so that the identities are not those of other objects later */
    Figures *figures;
} Slot;

static Slot *slots;
static size_t size, used;

static inline size_t
first_place(Identity identity, size_t length)
{
    uint64_t mixed = ((uint64_t)(uintptr_t)identity.key >> 4) ^ ((uint64_t)(uintptr_t)identity.mark << 7);
    return (size_t)((mixed * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & (length - 1);
}

Figures *
found(Identity identity)
{
    if (UNLIKELY(slots == NULL)) {
        return NULL;
    }
    for (size_t place = first_place(identity, size);; place = (place + 1) & (size - 1)) {
        Slot *slot = &slots[place];
        if (LIKELY(slot->identity.key == identity.key && slot->identity.mark == identity.mark)) {
            return slot->figures;
        }
        if (slot->figures == NULL) {
            return NULL;
        }
    }
}

void
forget_types(void)
{
    Slot *old = slots;
    size_t length = size;
    slots = NULL;
    size = used = 0;
    for (size_t place = 0; place < length; place++) {
        Py_XDECREF(old[place].kept);
        Py_XDECREF(old[place].also_kept);
        Py_XDECREF((PyObject *)old[place].figures);
    }
    PyMem_Free(old);
}

static size_t
free_place(const Slot *table, size_t length, Identity identity)
{
    size_t place = first_place(identity, length);
    while (table[place].figures != NULL) {
        place = (place + 1) & (length - 1);
    }
    return place;
}

static bool
grown(void)
{
    size_t length = size == 0 ? FEWEST : size * 2;
    Slot *larger = PyMem_Calloc(length, sizeof(Slot));
    if (larger == NULL) {
        return false;
    }
    for (size_t old = 0; old < size; old++) {
        if (slots[old].figures != NULL) {
            larger[free_place(larger, length, slots[old].identity)] = slots[old];
        }
    }
    PyMem_Free(slots);
    slots = larger;
    size = length;
    return true;
}

/* A process that makes code without end is asked for its types anew from time to time: that is the bound. */
void
remember(Identity identity, PyObject *kept, PyObject *also_kept, Figures *figures)
{
    if (used >= MOST) {
        forget_types();
    }
    if (found(identity) != NULL || ((used + 1) * 2 > size && !grown())) {
        return; /* resolved on another thread meanwhile; or there is no memory, and it will be asked again */
    }
    slots[free_place(slots, size, identity)]
        = (Slot){identity, Py_XNewRef(kept), Py_XNewRef(also_kept), (Figures *)Py_NewRef((PyObject *)figures)};
    used++;
}
