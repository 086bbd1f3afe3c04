//! Every structure as it lies on disk: fixed-endian, sized at compile time, documented by offset. The struct is the layout;
//! arithmetic on field offsets exists nowhere else.
