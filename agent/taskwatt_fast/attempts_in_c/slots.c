/* Where the objects of the Python side keep their slots: asked of the descriptors that Python made for them. */
#include "attempts.h"

#include <structmember.h>

Py_ssize_t slot_at[SLOT_COUNT];

static const struct {
    const char *owner, *name;
} slots[] = {
#define SLOT_ROW(owner, name) {#owner, #name},
    SLOTS(SLOT_ROW)
#undef SLOT_ROW
};

bool
find_slots(PyObject *given, Py_ssize_t *at)
{
    for (int which = 0; which < SLOT_COUNT; which++) {
        PyObject *owner = PyDict_GetItemString(given, slots[which].owner);
        if (owner == NULL || !PyType_Check(owner)) {
            PyErr_Format(PyExc_ValueError, "%s is no class", slots[which].owner);
            return false;
        }
        PyObject *member = PyObject_GetAttrString(owner, slots[which].name);
        if (member == NULL) {
            PyErr_Clear();
        }
        PyMemberDef *definition
            = member != NULL && Py_IS_TYPE(member, &PyMemberDescr_Type) ? ((PyMemberDescrObject *)member)->d_member : NULL;
        bool found = definition != NULL && definition->type == T_OBJECT_EX && !(definition->flags & READONLY)
            && PyType_IsSubtype((PyTypeObject *)owner, PyDescr_TYPE(member));
        at[which] = found ? definition->offset : 0;
        Py_XDECREF(member);
        if (!found) {
            PyErr_Format(PyExc_ValueError, "%s.%s is no slot", slots[which].owner, slots[which].name);
            return false;
        }
    }
    return true;
}
