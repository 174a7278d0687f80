/* Included by RPython's headers; no program here computes with floats. */
#ifndef MATH_H
#define MATH_H
#endif
