from allconv_caffe import interrupts as interrupts  # before what takes its time
