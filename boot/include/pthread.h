/* RPython's headers name a thread key; there are no threads. */
#ifndef PTHREAD_H
#define PTHREAD_H
typedef unsigned int pthread_key_t;
#endif
