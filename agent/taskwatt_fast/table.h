/* A hash table from two identities to figures. Small, open, and emptied when it is full. */
#ifndef TASKWATT_TABLE_H
#define TASKWATT_TABLE_H

#include "carrier.h"

/* What the steps of one type have in common: code and name, a builtin's definition and name, code and protocol. */
typedef struct {
    const void *key, *mark;
} Identity;

Figures *found(Identity identity); /* borrowed */
void remember(Identity identity, PyObject *kept, PyObject *also_kept, Figures *figures);

#endif
